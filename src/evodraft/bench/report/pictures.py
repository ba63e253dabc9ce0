"""Which pictures a result has, and how each is to be read. Does not know how a chart is drawn: `drawing`.

A picture for which the result has no figures is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Final, NamedTuple

from evodraft.bench.report import drawing, settings, tables
from evodraft.bench.report.drawing import Frame, Phase, Point, Series
from evodraft.bench.result import ALL, CONTROL, VARIED

if TYPE_CHECKING:
    from evodraft.bench.result import ConditionRecord, ContestantRecord, Interval, Item, Result, Row

_AVERAGE: Final = 5  # prompts of a stream
_MIN_SERIES: Final = 3  # conditions that differ in one number, from which on they are a series
_MIB: Final = 2**20
_MARKS: Final = "Hollow: does not count, for the reason in the table."
# What conditions of a series differ in -> label of the axis.
_SERIES: Final[Mapping[str, str]] = {
    "batch_size": "requests at once",
    "prompt_tokens": "tokens of the prompt",
    "temperature": "temperature",
}


class Picture(NamedTuple):
    """A chart with its words."""

    title: str
    caption: str
    svg: str


def pictures(result: Result, name: str) -> Iterator[Picture]:
    """All pictures of a result. `name` differs between the results of a page.

    Raises BenchError if matplotlib is missing.
    """
    for number, make in enumerate(_PICTURES if result.conditions else ()):
        yield from make(result, f"{name}.{number}")


# --------------------------------------------------------------------------------
# Speed
# --------------------------------------------------------------------------------


def _speed_by_group(result: Result, name: str) -> Iterator[Picture]:
    condition = result.conditions[0]
    groups = list(dict.fromkeys(row.group for row in result.rows if row.condition == condition.name))
    if len(groups) < 2:
        return
    keys = [(condition.name, group) for group in sorted(groups, key=lambda group: (group == ALL, group == VARIED))]
    about = f"The first condition: {settings.described(condition)}."
    yield from _speeds(result, "by kind of prompt", about, name, keys, [group for _, group in keys])


def _speed_by_condition(result: Result, name: str) -> Iterator[Picture]:
    in_series = {condition.name for _, conditions in _series(result) for condition in conditions}
    names = [condition.name for condition in result.conditions if condition.name not in in_series]
    if len(names) > 1:
        about = "All prompts together. Temperature 0 flatters drafters where a model loops."
        yield from _speeds(result, "by condition", about, name, [(one, ALL) for one in names], names)


def _speeds(
    result: Result, by: str, about: str, name: str, keys: Sequence[tuple[str, str]], groups: Sequence[str]
) -> Iterator[Picture]:
    band = (result.noise.interval.low, result.noise.interval.high) if result.noise else None
    shade = " The shaded band is what the baseline gives against itself." if band else ""
    for field, title, label in _kinds(result):
        series = list(_speed_series(result, field, keys))
        if series:
            caption = f"{about} Right of the line at 1 is faster; whiskers are intervals of 95 %.{shade} {_MARKS}"
            svg = drawing.intervals(groups, series, label, band, Frame(f"{name}.{field}", _watermark(result, series)))
            yield Picture(f"{title} {by}", caption, svg)


def _kinds(result: Result) -> Iterator[tuple[str, str, str]]:
    """Field of a row, title, label of the axis: whole requests only if somebody cannot tell the decoding apart."""
    yield "speed_up", "Speed-up", "decoding: tokens/s over plain (times)"
    if any(row.speed_up is None and row.request_speed_up is not None for row in result.rows):
        yield "request_speed_up", "Speed-up of whole requests", "whole requests: tokens/s over plain (times)"


def _speed_over_series(result: Result, name: str) -> Iterator[Picture]:
    for varied, conditions in _series(result):
        keys, ticks = [(c.name, ALL) for c in conditions], [_tick(getattr(c, varied)) for c in conditions]
        for field, title, _ in _kinds(result):
            series = list(_speed_series(result, field, keys))
            if series:
                frame = Frame(f"{name}.{varied}.{field}", _watermark(result, series))
                svg = drawing.lines(ticks, series, (_SERIES[varied], "speed-up (times)"), frame)
                caption = f"All prompts together; above 1 is faster than plain decoding of the same requests. {_MARKS}"
                yield Picture(f"{title} over {_SERIES[varied]}", caption, svg)


def _speed_series(result: Result, field: str, keys: Sequence[tuple[str, str]]) -> Iterator[Series]:
    """Of everybody but the baseline, at `keys`: names of condition and group."""
    rows = {(row.condition, row.group, row.contestant): row for row in result.rows}
    for number, contestant in enumerate(_rivals(result)):
        found = [rows.get((*key, contestant.name)) for key in keys]
        points = [_point(result, row, getattr(row, field)) if row else None for row in found]
        if any(points):
            yield Series(contestant.name, number, points)


def _point(result: Result, row: Row, interval: Interval | None) -> Point | None:
    if interval is None:
        return None
    return Point(interval.value, interval.low, interval.high, is_counted=not tables.note(result, row))


def _series(result: Result) -> Iterator[tuple[str, list[ConditionRecord]]]:
    """What differs, and the conditions in which nothing else does, in order."""
    for field in _SERIES:
        kinds: dict[tuple[object, ...], list[ConditionRecord]] = {}
        for condition in result.conditions:
            other = [getattr(condition, one) for one in (*_SERIES, "repetition_penalty", "verifier") if one != field]
            kinds.setdefault(tuple(other), []).append(condition)
        for conditions in kinds.values():
            if len({getattr(condition, field) for condition in conditions}) >= _MIN_SERIES:
                yield field, sorted(conditions, key=lambda condition: getattr(condition, field) or 0)


def _tick(value: object) -> str:
    return "as they are" if value is None else f"{value:,}" if isinstance(value, int) else f"{value}"


# --------------------------------------------------------------------------------
# Acceptance
# --------------------------------------------------------------------------------


def _acceptance_by_position(result: Result, name: str) -> Iterator[Picture]:
    rows = {row.contestant: row for row in _totals(result)}
    series = [
        Series(contestant.name, number, [Point(rate, rate, rate) for rate in rows[contestant.name].per_position_rates])
        for number, contestant in enumerate(_rivals(result))
        if contestant.name in rows and rows[contestant.name].per_position_rates
    ]
    if series:
        longest = max(len(one.points) for one in series)
        padded = [Series(one.name, one.number, [*one.points, *[None] * (longest - len(one.points))]) for one in series]
        ticks = [str(position) for position in range(1, longest + 1)]
        labels = "position in the draft", "rounds that accept it / rounds"
        svg = drawing.lines(ticks, padded, labels, Frame(name, _watermark(result, series)), is_share=True)
        caption = (
            f"All prompts, {settings.described(result.conditions[0])}. A line falls where drafts are rejected, and "
            "where a controller stops drafting. The sum over positions is what a round gains."
        )
        yield Picture("Acceptance by position", caption, svg)


def _acceptance_over_stream(result: Result, name: str) -> Iterator[Picture]:
    if not result.suite.phases:
        return
    condition = result.conditions[0].name
    items = [item for item in result.items if item.condition == condition and item.num_rounds and item.num_draft_tokens]
    if not items:
        return
    groups = {item.number: item.group for item in result.items if item.condition == condition}
    phases = []
    for group, numbers in groupby(sorted(groups), key=lambda number: groups[number]):
        stretch = list(numbers)
        phases.append(Phase(group, stretch[0] - 0.5, stretch[-1] + 0.5))
    panels = {
        "acceptance rate": list(_streams(result, items, _acceptance_rate)),
        "accepted + 1, per round": list(_streams(result, items, _length)),
    }
    svg = drawing.stream(phases, panels, _AVERAGE, Frame(name, _watermark(result, panels["acceptance rate"])))
    caption = (
        f"{settings.described(result.conditions[0]).capitalize()}. Dots: prompts in the order in which they came, mean "
        f"over repeats. Lines: mean of the last {_AVERAGE} prompts since the stream changed. A method that learns "
        "should climb within a phase, and start higher when a phase comes back."
    )
    yield Picture("Acceptance over a shifting stream", caption, svg)


def _streams(result: Result, items: Sequence[Item], figure: Callable[[Item], float]) -> Iterator[Series]:
    last = max(item.number for item in items)
    for number, contestant in enumerate(_rivals(result)):
        values: dict[int, list[float]] = {}
        for item in items:
            if item.contestant == contestant.name:
                values.setdefault(item.number, []).append(figure(item))
        if values:
            means = [fmean(values[n]) if n in values else None for n in range(last + 1)]
            yield Series(contestant.name, number, [None if m is None else Point(m, m, m) for m in means])


def _acceptance_rate(item: Item) -> float:
    return (item.num_accepted_tokens or 0) / (item.num_draft_tokens or 1)


def _length(item: Item) -> float:
    return 1 + (item.num_accepted_tokens or 0) / (item.num_rounds or 1)


# --------------------------------------------------------------------------------
# Time and memory
# --------------------------------------------------------------------------------


def _time_of_a_round(result: Result, name: str) -> Iterator[Picture]:
    bars = {
        row.contestant: {"draft": t.draft_ms, "verify": t.verify_ms, "overhead": t.overhead_ms, "learning": t.learn_ms}
        for row in _totals(result)
        if (t := row.time_split) is not None
    }
    if any(sum(bar.values()) for bar in bars.values()):
        svg = drawing.stacks(bars, "milliseconds of one round, mean", Frame(name, _watermark_of(result, bars)))
        caption = (
            f"All prompts, {settings.described(result.conditions[0])}. Verify is the target's pass, overhead all that "
            "belongs to neither model. A longer round pays if it commits more tokens: see MAL."
        )
        yield Picture("Where a round's time goes", caption, svg)


def _memory(result: Result, name: str) -> Iterator[Picture]:
    """Tensors that methods count, and processes as seen from outside: never in one chart."""
    known = {c.name: c.memory for c in result.contestants if c.memory and c.name != CONTROL}
    tensors = {
        contestant: {"weights": memory.weights_bytes, "cache": memory.cache_bytes, "learner": memory.learner_bytes}
        for contestant, memory in known.items()
    }
    processes = {contestant: {"whole process": memory.resident_bytes} for contestant, memory in known.items()}
    yield from _sizes(result, f"{name}.tensors", tensors, "Memory of tensors", "Target and draft together.")
    about = "The most that the process ever held, with its libraries."
    yield from _sizes(result, f"{name}.processes", processes, "Memory of processes", about)


def _sizes(
    result: Result, name: str, sizes: Mapping[str, Mapping[str, int | None]], title: str, caption: str
) -> Iterator[Picture]:
    bars = {
        contestant: {part: size / _MIB for part, size in parts.items() if size}
        for contestant, parts in sizes.items()
        if any(parts.values())
    }
    if bars:
        yield Picture(title, caption, drawing.stacks(bars, "MiB", Frame(name, _watermark_of(result, bars))))


# --------------------------------------------------------------------------------
# Who is shown
# --------------------------------------------------------------------------------


def _rivals(result: Result) -> list[ContestantRecord]:
    """Everybody but the baseline and its control; the order gives each a colour in all pictures."""
    return [c for c in result.contestants if c.name not in (result.baseline, CONTROL)]


def _totals(result: Result) -> list[Row]:
    """Rows over all prompts of the first condition, without the control's."""
    name = result.conditions[0].name
    return [r for r in result.rows if (r.condition, r.group) == (name, ALL) and r.contestant != CONTROL]


def _watermark(result: Result, series: Sequence[Series]) -> str:
    return _watermark_of(result, [one.name for one in series])


def _watermark_of(result: Result, names: Sequence[str] | Mapping[str, object]) -> str:
    if result.model.synthetic:
        return "synthetic"
    return "partly synthetic" if any(c.synthetic and c.name in names for c in result.contestants) else ""


_PICTURES: Final[tuple[Callable[[Result, str], Iterator[Picture]], ...]] = (
    _speed_by_group,
    _speed_by_condition,
    _speed_over_series,
    _acceptance_by_position,
    _acceptance_over_stream,
    _time_of_a_round,
    _memory,
)
