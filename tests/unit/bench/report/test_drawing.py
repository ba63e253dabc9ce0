"""Charts are the same for the same data, keep text as text, and leave colours to the page."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from evodraft.bench.report import drawing
from evodraft.bench.report.drawing import Frame, Phase, Point, Series
from evodraft.bench.report.style import STYLE
from evodraft.errors import BenchError

SERIES = [
    Series("auto", 0, [Point(1.4, 1.3, 1.5), Point(1.2, 1.1, 1.3, is_counted=False)]),
    Series("ngram", 1, [Point(1.1, 1.0, 1.2), None]),
]
CHARTS = {
    "intervals": lambda frame: drawing.intervals(["law", "code"], SERIES, "times", (0.98, 1.02), frame),
    "lines": lambda frame: drawing.lines(["1", "2"], SERIES, ("position", "share"), frame),
    "share": lambda frame: drawing.lines(["1", "2"], SERIES, ("position", "share"), frame, is_share=True),
    "stacks": lambda frame: drawing.stacks({"auto": {"draft": 2.0, "verify": 10.0}, "b": {"verify": 12}}, "ms", frame),
    "stream": lambda frame: drawing.stream(
        [Phase("law", -0.5, 0.5), Phase("code", 0.5, 1.5)], {"rate": SERIES, "length": SERIES}, 5, frame
    ),
}


@pytest.fixture(params=CHARTS)
def chart(request: pytest.FixtureRequest) -> object:
    return CHARTS[request.param]


def test_the_same_data_give_the_same_bytes(chart: object) -> None:
    assert chart(Frame("1")) == chart(Frame("1"))  # type: ignore[operator]


def test_names_inside_differ_between_charts_of_a_page(chart: object) -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', chart(Frame(name)))) for name in "12")  # type: ignore[operator]
    assert first
    assert not first & second


def test_a_chart_is_one_element_with_text_and_colours_of_the_page(chart: object) -> None:
    svg = chart(Frame("1", "synthetic"))  # type: ignore[operator]
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "synthetic" in {element.text for element in root.iter() if element.text}
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) == set()
    assert set(re.findall(r"var\(--([\w-]+)\)", svg)) <= set(drawing.VARIABLES.values())
    assert "<style" not in svg
    assert "font-family" not in svg


def test_what_is_referred_to_is_there(chart: object) -> None:
    svg = chart(Frame("1"))  # type: ignore[operator]
    assert set(re.findall(r'#([\w.-]+)["\)]', svg)) == set(re.findall(r' id="([^"]+)"', svg))


def test_the_page_has_every_colour_in_light_and_dark() -> None:
    for name in drawing.VARIABLES.values():
        assert STYLE.count(f"--{name}:") == 2


@pytest.mark.parametrize("name", ["_hidden", "$x^$", "<b>&amp;", "\x1b[2J", "日本語 🎉", "n" * 500])
def test_foreign_names_are_text(name: str) -> None:
    series = [Series(name, 0, [Point(1.4, 1.3, 1.5)])]
    root = ElementTree.fromstring(drawing.intervals([name], series, "times", None, Frame("1")))
    texts = [element.text for element in root.iter() if element.text]
    assert texts.count(drawing.shown(name)) == 1
    assert texts.count(f" {drawing.shown(name)}") == 1
    assert len(drawing.shown(name)) <= 34


def test_hollow_is_what_does_not_count() -> None:
    counted, not_counted = (
        drawing.intervals(["law"], [Series("auto", 0, [Point(1.4, 1.3, 1.5, is_counted)])], "times", None, Frame("1"))
        for is_counted in (True, False)
    )
    assert counted.count("fill: var(--paper)") + 1 == not_counted.count("fill: var(--paper)")


def test_the_users_own_style_of_matplotlib_does_not_matter() -> None:
    import matplotlib

    usual = CHARTS["lines"](Frame("1"))
    with matplotlib.rc_context({"lines.linewidth": 7, "font.size": 30}):
        assert CHARTS["lines"](Frame("1")) == usual
        assert matplotlib.rcParams["font.size"] == 30


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"pictures need matplotlib.*pip install 'evodraft\[bench\]'"):
        CHARTS["lines"](Frame("1"))


def test_a_legend_takes_the_columns_that_there_is_room_for() -> None:
    svg = drawing.lines(["1"], [Series("n" * 34, n, [Point(1, 1, 1)]) for n in range(9)], ("", ""), Frame("1"))
    places = set(re.findall(r'x="([\d.]+)" y="[\d.]+"> n+…?</text>', svg))
    assert len(places) == 1


def test_names_of_short_phases_are_slanted() -> None:
    series = [Series("auto", 0, [Point(0.5, 0.5, 0.5)] * 9)]
    short = [Phase("medicine", start - 0.5, start + 0.5) for start in range(9)]
    slanted, upright = (
        drawing.stream(phases, {"rate": series}, 5, Frame("1")) for phases in (short, [Phase("medicine", -0.5, 8.5)])
    )
    assert slanted.count("rotate(-40") == 9
    assert "rotate(-40" not in upright
