"""Charts as SVG that a page can hold: text stays text, colours are the page's, the same data give the same bytes.

Knows matplotlib and how a chart looks, not what is shown. Colours are written as `var(--NAME)`, so that one picture
serves light and dark pages. matplotlib is an optional dependency, imported when the first chart is drawn.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from evodraft.display import printable
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour that matplotlib is given -> the page's name of it. Each is used for nothing else.
VARIABLES: Final[Mapping[str, str]] = {
    "#1b2330": "ink",
    "#667080": "muted",
    "#dde2e9": "grid",
    "#eef1f5": "shade",
    "#fdfdfe": "paper",
    "#0072b2": "series-0",
    "#d55e00": "series-1",
    "#009e73": "series-2",
    "#b8548c": "series-3",
    "#b57600": "series-4",
    "#3a93cc": "series-5",
    "#6b5fc7": "series-6",
    "#5f6b78": "series-7",
}
_COLOURS: Final[Mapping[str, str]] = {name: colour for colour, name in VARIABLES.items()}
_NUM_SERIES: Final = sum(name.startswith("series") for name in VARIABLES.values())
_MARKERS: Final = "osD^vPX*"
_WIDTH_PT: Final = 420
_NAME_LENGTH: Final = 34
_SETTINGS: Final[Mapping[str, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are no formulas
    "font.family": ["sans-serif"],
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _COLOURS["muted"],
    "axes.facecolor": "none",
    "axes.labelcolor": _COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _COLOURS["grid"],
    "grid.linewidth": 0.8,
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["ink"],
    "ytick.color": _COLOURS["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
}


class Point(NamedTuple):
    """A figure with its interval; hollow if it does not count."""

    value: float
    low: float
    high: float
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class Series:
    """One contestant's points, None where there is none."""

    name: str
    number: int  # of its colour and marker
    points: Sequence[Point | None]


class Phase(NamedTuple):
    """A stretch of the horizontal axis."""

    name: str
    start: float
    end: float


class Frame(NamedTuple):
    """What a chart is within its page."""

    name: str  # different for every chart of the page: what is inside refers to itself by it
    watermark: str = ""


# --------------------------------------------------------------------------------
# Charts
# --------------------------------------------------------------------------------


def intervals(
    groups: Sequence[str], series: Sequence[Series], label: str, band: tuple[float, float] | None, frame: Frame
) -> str:
    """Points with intervals, the groups below each other; a line at 1, and around it the band of noise."""
    step = 1 / (len(series) + 1)
    with _chart(50 + (11 * len(series) + 11) * len(groups), [one.name for one in series], frame) as figure:
        axes = figure.axes[0]
        for number, one in enumerate(series):
            offset = (number - (len(series) - 1) / 2) * step
            _draw_points(axes, one, [place + offset for place in range(len(groups))])
        if band is not None:
            axes.axvspan(*band, color=_COLOURS["shade"], linewidth=0, zorder=0)
        axes.axvline(1, color=_COLOURS["muted"], linewidth=1, zorder=1)
        axes.set_yticks(range(len(groups)), [shown(group) for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        for place in range(1, len(groups)):
            axes.axhline(place - 0.5, color=_COLOURS["grid"], linewidth=0.8)
        axes.set_xlabel(label)
        return _finished(figure)


def lines(
    ticks: Sequence[str], series: Sequence[Series], labels: tuple[str, str], frame: Frame, *, is_share: bool = False
) -> str:
    """Points with intervals, joined from left to right. `labels`: below, at the left. A share goes from 0 to 1."""
    with _chart(230, [one.name for one in series], frame) as figure:
        axes = figure.axes[0]
        for one in series:
            _draw_line(axes, one)
        axes.set_xticks(range(len(ticks)), [shown(tick) for tick in ticks])
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        if is_share:
            axes.set_ylim(0, 1)
        else:
            axes.axhline(1, color=_COLOURS["muted"], linewidth=1, zorder=1)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        return _finished(figure)


def stacks(bars: Mapping[str, Mapping[str, float]], label: str, frame: Frame) -> str:
    """Bars to the right, made of parts in the order in which they occur; parts that are not small say their size."""
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    longest = max(sum(bar.values()) for bar in bars.values())
    with _chart(46 + 26 * len(bars), parts, frame) as figure:
        axes, before = figure.axes[0], [0.0] * len(bars)
        for number, part in enumerate(parts):
            sizes = [bar.get(part, 0) for bar in bars.values()]
            look: dict[str, Any] = {"color": _COLOURS[f"series-{number % _NUM_SERIES}"], "edgecolor": _COLOURS["paper"]}
            drawn = axes.barh(range(len(bars)), sizes, 0.7, before, label=_label(part), **look)
            texts = [f"{size:.2g}" if size < 10 else f"{size:.0f}" for size in sizes]
            texts = [text if size > longest / 14 else "" for text, size in zip(texts, sizes, strict=True)]
            axes.bar_label(drawn, texts, label_type="center", color=_COLOURS["paper"])
            before = [start + size for start, size in zip(before, sizes, strict=True)]
        axes.set_yticks(range(len(bars)), [shown(name) for name in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        return _finished(figure)


def stream(phases: Sequence[Phase], panels: Mapping[str, Sequence[Series]], average: int, frame: Frame) -> str:
    """Panels below each other over one axis of prompts: dots, and their mean over the last `average` of the phase."""
    names = [one.name for one in next(iter(panels.values()))]
    with _chart(60 + 150 * len(panels), names, frame, num_panels=len(panels)) as figure:
        for axes, (label, series) in zip(figure.axes, panels.items(), strict=True):
            for phase in phases[::2]:
                axes.axvspan(phase.start, phase.end, color=_COLOURS["shade"], linewidth=0, zorder=0)
            for one in series:
                _draw_stream(axes, one, phases, average)
            axes.grid(visible=False, axis="x")
            axes.set_ylabel(label)
        _name_phases(figure.axes[0], phases)
        figure.axes[-1].set_xlabel("prompt of the stream")
        return _finished(figure)


# --------------------------------------------------------------------------------
# Marks
# --------------------------------------------------------------------------------


def _draw_points(axes: Axes, series: Series, heights: Sequence[float]) -> None:
    """Markers with whiskers to both sides."""
    colour, marker = _look(series)
    there = [(height, point) for height, point in zip(heights, series.points, strict=True) if point]
    lows, highs = [point.low for _, point in there], [point.high for _, point in there]
    axes.hlines([height for height, _ in there], lows, highs, color=colour, linewidth=1.4, zorder=2)
    _draw_markers(axes, series, [(point.value, height, point.is_counted) for height, point in there])
    axes.plot([], [], marker, color=colour, markersize=5, label=_label(series.name))


def _draw_line(axes: Axes, series: Series) -> None:
    """Markers with whiskers up and down, joined."""
    colour, marker = _look(series)
    there = [(place, point) for place, point in enumerate(series.points) if point]
    places, values = [place for place, _ in there], [point.value for _, point in there]
    axes.plot(places, values, color=colour, linewidth=1.6, zorder=2)
    lows, highs = [point.low for _, point in there], [point.high for _, point in there]
    axes.vlines(places, lows, highs, color=colour, linewidth=1.2, zorder=2)
    _draw_markers(axes, series, [(place, point.value, point.is_counted) for place, point in there])
    axes.plot([], [], color=colour, marker=marker, markersize=5, linewidth=1.6, label=_label(series.name))


def _draw_markers(axes: Axes, series: Series, marks: Sequence[tuple[float, float, bool]]) -> None:
    """At (x, y, whether it counts); hollow if it does not."""
    colour, marker = _look(series)
    for counts, face in ((True, colour), (False, _COLOURS["paper"])):
        chosen = [(x, y) for x, y, is_counted in marks if is_counted == counts]
        if chosen:
            across, up = zip(*chosen, strict=True)
            axes.plot(across, up, marker, color=colour, markersize=5, markerfacecolor=face, zorder=3)


def _draw_stream(axes: Axes, series: Series, phases: Sequence[Phase], average: int) -> None:
    colour, marker = _look(series)
    for phase in phases:
        inside = [(n, p.value) for n, p in enumerate(series.points) if p and phase.start <= n < phase.end]
        values = [value for _, value in inside]
        means = [fmean(values[max(0, end - average) : end]) for end in range(1, len(values) + 1)]
        axes.plot([n for n, _ in inside], values, marker, color=colour, markersize=2.5, alpha=0.35)
        axes.plot([n for n, _ in inside], means, color=colour, linewidth=1.8)
    axes.plot([], [], color=colour, marker=marker, markersize=4, label=_label(series.name))


def _name_phases(axes: Axes, phases: Sequence[Phase]) -> None:
    """Above the panel; slanted where they would touch each other."""
    start, end = phases[0].start, phases[-1].end
    room = 0.8 * _WIDTH_PT / (end - start)  # points for each prompt
    is_tight = any(6.5 * len(shown(phase.name)) > room * (phase.end - phase.start) for phase in phases)
    look: dict[str, Any] = {"ha": "left", "rotation": 40} if is_tight else {"ha": "center"}
    for phase in phases:
        middle, above = (phase.start + phase.end) / 2, axes.get_xaxis_transform()
        axes.text(middle, 1.02, shown(phase.name), va="bottom", transform=above, color=_COLOURS["muted"], **look)
    axes.set_xlim(start, end)


def _look(series: Series) -> tuple[str, str]:
    """Colour and marker: nobody has to tell colours apart."""
    return _COLOURS[f"series-{series.number % _NUM_SERIES}"], _MARKERS[series.number % len(_MARKERS)]


def shown(text: str) -> str:
    """Foreign text as a label: on one line and not longer than a chart can bear."""
    line = " ".join(printable(text).split())
    return line if len(line) <= _NAME_LENGTH else f"{line[: _NAME_LENGTH - 1]}…"


def _label(name: str) -> str:
    return f" {shown(name)}"  # matplotlib leaves names that begin with "_" out of the legend


# --------------------------------------------------------------------------------
# The frame
# --------------------------------------------------------------------------------


def check_installed() -> None:
    """Raises BenchError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("pictures need matplotlib, which is not installed: pip install 'evodraft[bench]'")


@contextmanager
def _chart(height_pt: float, names: Sequence[str], frame: Frame, num_panels: int = 1) -> Iterator[Figure]:
    """A figure with room for a legend of `names`; what is drawn within looks as it should."""
    check_installed()
    import matplotlib
    from matplotlib.figure import Figure

    height_pt += 15 * -(-len(names) // _legend_columns(names))
    settings: Any = {**_SETTINGS, "svg.hashsalt": frame.name}
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(settings)
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # the reader's fonts may have it
        figure = Figure(figsize=(_WIDTH_PT / 72, height_pt / 72), layout="constrained")
        figure.patch.set_alpha(0)
        figure.subplots(num_panels, sharex=True)
        if frame.watermark:
            look: dict[str, Any] = {"fontsize": 40, "alpha": 0.13, "rotation": 18, "ha": "center", "va": "center"}
            figure.text(0.55, 0.45, frame.watermark, color=_COLOURS["muted"], **look)
        yield figure


def _legend_columns(names: Sequence[str]) -> int:
    """As many as there is room for; matplotlib fills column by column."""
    widths = [6 * len(shown(name)) + 36 for name in names]
    for columns in range(len(names), 1, -1):
        rows = -(-len(names) // columns)
        if sum(max(widths[start : start + rows]) for start in range(0, len(names), rows)) <= _WIDTH_PT:
            return columns
    return 1


def _finished(figure: Figure) -> str:
    """The chart with its legend on top, as an element that a page can hold."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=_legend_columns(labels))
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = file.getvalue()
    return _themed(re.sub(r"<style.*?</style>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL))


def _themed(svg: str) -> str:
    """Tags without sizes of their own, fonts, and names that nobody refers to; with the page's colours. Text stays."""
    referred = set(re.findall(r'#([\w.-]+)["\)]', svg))

    def tag(match: re.Match[str]) -> str:
        tag = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in referred else "", match[0])
        tag = re.sub(r' transform="rotate\(-0 [^"]*"| version="1.1"', "", " ".join(tag.split()))
        tag = re.sub(r"font: ([\d.]+px) [^;]*;", r"font-size: \1;", tag)
        tag = re.sub(r"font-family: [^;]*; ", "", tag)
        if tag.startswith("<svg"):
            tag = re.sub(r' (?:width|height)="[^"]*"', "", tag)
        for colour, name in VARIABLES.items():
            tag = tag.replace(colour, f"var(--{name})")
        return tag

    return re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", tag, svg))
