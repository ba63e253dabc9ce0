"""What the tables of a report say: columns, cells, order, notes. Does not know how a table is drawn.

A row that does not count has a note that says why; every place that shows figures shows its notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from evodraft.bench.result import (
    ALL,
    MIN_DISTINCT_4,
    VARIED,
    Check,
    ConditionRecord,
    ContestantRecord,
    Interval,
    Result,
    Row,
)

NONE: Final = "–"  # there is no such figure
STAR: Final = "* of whole requests, where decoding alone is not known"
OVERVIEW: Final = f"speed-up over all prompts; (not counted); {STAR}"


class Column(NamedTuple):
    """One figure of a row."""

    head: str
    about: str
    cell: Callable[[Row], str]
    is_wide: bool = False  # left out where there is little room


class Line(NamedTuple):
    """A row and why it does not count ("" = it does)."""

    row: Row
    note: str


class Block(NamedTuple):
    """All lines of one contestant under one condition; the one over all prompts is the last."""

    contestant: ContestantRecord
    lines: tuple[Line, ...]


class Section(NamedTuple):
    """Everything under one condition."""

    condition: ConditionRecord
    methods: tuple[Block, ...]
    peers: tuple[Block, ...]


# --------------------------------------------------------------------------------
# Cells
# --------------------------------------------------------------------------------


def times(ratio: float | None) -> str:
    """
    >>> times(1.4159), times(None)
    ('1.42x', '–')
    """
    return NONE if ratio is None else f"{ratio:.2f}x"


def spread(interval: Interval | None, mark: str = "") -> str:
    """
    >>> spread(Interval(1.416, 1.38, 1.47), "*")
    '1.42x* [1.38, 1.47]'
    """
    return NONE if interval is None else f"{times(interval.value)}{mark} [{interval.low:.2f}, {interval.high:.2f}]"


def starred(row: Row) -> tuple[Interval | None, str]:
    """The speed-up of decoding; of whole requests, with a star, where nothing else is known."""
    return (row.request_speed_up, "*") if row.speed_up is None else (row.speed_up, "")


def decimal(figure: float | None, places: int = 2) -> str:
    """
    >>> decimal(2.104), decimal(62.13, 1), decimal(None)
    ('2.10', '62.1', '–')
    """
    return NONE if figure is None else f"{figure:.{places}f}"


def checked(check: Check | None) -> str:
    """The verdict and what it rests on.

    >>> checked(Check("equality", True, 6, 8, 0.011, 0.05)), checked(None)
    ('ok 6/8', '–')
    """
    if check is None or check.kind == "none":
        return NONE
    parts = ["ok" if check.is_passed else "FAILED"]
    if check.num_identical is not None:
        parts.append(identical(check))
    if check.p_value is not None:
        parts.append(f"p={check.p_value:.2g}")
    return " ".join(parts)


def identical(check: Check | None) -> str:
    """
    >>> identical(Check("equality", True, 6, 8)), identical(None)
    ('6/8', '–')
    """
    return NONE if check is None or check.num_identical is None else f"{check.num_identical}/{check.num_outputs}"


def deficit(check: Check | None) -> str:
    """
    >>> deficit(Check("equality", True, 6, 8, 0.0114, 0.5))
    '0.011 of 0.5'
    """
    if check is None or check.worst_deficit_nats is None:
        return NONE
    limit = "" if check.tolerance_nats is None else f" of {check.tolerance_nats:.2g}"
    return f"{check.worst_deficit_nats:.2g}{limit}"


COLUMNS: Final[tuple[Column, ...]] = (
    Column(
        "speed-up",
        "tokens per second of decoding over the baseline: median of the prompts' own ratios, bootstrap interval "
        f"of 95 %; {STAR}",
        lambda row: spread(*starred(row)),
    ),
    Column(
        "whole request",
        "the same with the reading of the prompt in the time",
        lambda row: spread(row.request_speed_up),
        is_wide=True,
    ),
    Column(
        "replayed",
        "the speed-up that the counts of rounds give at the mean measured cost of each kind of round: immune to noise",
        lambda row: times(row.replayed_speed_up),
        is_wide=True,
    ),
    Column("tok/s", "tokens per second of decoding", lambda row: decimal(row.tokens_per_s, 1)),
    Column(
        "req. tok/s",
        "tokens per second of whole requests",
        lambda row: decimal(row.request_tokens_per_s, 1),
        is_wide=True,
    ),
    Column(
        "MAL",
        "mean acceptance length: tokens committed per round, plain decoding = 1",
        lambda row: decimal(row.mean_acceptance_length),
    ),
    Column("accept", "acceptance rate: accepted over proposed draft tokens", lambda row: decimal(row.acceptance_rate)),
    Column(
        "dist-4",
        "distinct-4: different 4-grams over all 4-grams of an output; low = repetition, which flatters drafters",
        lambda row: decimal(row.distinct_4),
    ),
    Column(
        "check",
        "whether the outputs are what the target says: how many are identical to the baseline's, or the p value of a "
        "test that the tokens follow the target's law",
        lambda row: checked(row.check),
    ),
    Column(
        "deficit",
        "nats by which the worst token falls short of the target's own choice, and how much rounding explains",
        lambda row: deficit(row.check),
        is_wide=True,
    ),
)

NOTES: Final[Mapping[str, str]] = {
    "failed": "an item failed, so the row has no figures",
    "synthetic": "random weights or forced acceptance: a cost at real scale, never a result",
    "not checked": "nobody compared its outputs with the target's law",
    "inexact": "does not claim the target's own law",
    "check failed": "its outputs are not what the target says",
    "repetitive": f"distinct-4 below {MIN_DISTINCT_4:g} at temperature 0: loops flatter every drafter",
    "not counted": "the run did not count it",
}


# --------------------------------------------------------------------------------
# Rows in order, with notes
# --------------------------------------------------------------------------------


def sections(result: Result) -> tuple[Section, ...]:
    """One for each condition, in the order of the suite."""
    return tuple(_section(result, condition) for condition in result.conditions)


def _section(result: Result, condition: ConditionRecord) -> Section:
    blocks = [_block(result, condition, contestant) for contestant in result.contestants]
    there = [block for block in blocks if block.lines]
    methods, peers = (tuple(b for b in there if b.contestant.kind == kind) for kind in ("method", "peer"))
    return Section(condition, methods, peers)


def _block(result: Result, condition: ConditionRecord, contestant: ContestantRecord) -> Block:
    rows = [r for r in result.rows if (r.condition, r.contestant) == (condition.name, contestant.name)]
    rows.sort(key=lambda row: (row.group == ALL, row.group == VARIED))
    return Block(contestant, tuple(Line(row, note(result, row)) for row in rows))


def note(result: Result, row: Row) -> str:
    """A word of `NOTES` if the row must not be quoted, "" if it may."""
    contestant = next((c for c in result.contestants if c.name == row.contestant), None)
    condition = next((c for c in result.conditions if c.name == row.condition), None)
    if row.error is not None:
        return "failed"
    if result.model.synthetic is not None or contestant is None or contestant.synthetic is not None:
        return "synthetic"
    if row.check is None:
        return "not checked"
    if not contestant.is_exact or row.check.kind == "none":
        return "inexact"
    if not row.check.is_passed:
        return "check failed"
    is_greedy = condition is not None and condition.temperature == 0
    is_repetitive = is_greedy and row.distinct_4 is not None and row.distinct_4 < MIN_DISTINCT_4
    if is_repetitive and not (row.is_plain and _baseline_of(result, row).is_plain):
        return "repetitive"
    return "" if row.is_counted else "not counted"


def _baseline_of(result: Result, row: Row) -> Row:
    """The row that this one is divided by; itself where a result has none."""
    found = (r for r in result.rows if (r.contestant, r.condition) == (result.baseline, row.condition))
    return next((r for r in found if r.group == row.group), row)


def overview(result: Result) -> Iterator[tuple[ContestantRecord, list[str]]]:
    """Each contestant's speed-up over all prompts, one cell for each condition.

    In brackets what does not count; with a star the speed-up of whole requests, where nothing else is known.
    """
    lines = {
        (section.condition.name, block.contestant.name): line
        for section in sections(result)
        for block in (*section.methods, *section.peers)
        for line in block.lines
        if line.row.group == ALL
    }
    for contestant in sorted(result.contestants, key=lambda c: c.kind == "peer"):
        yield contestant, [brief(lines.get((condition.name, contestant.name))) for condition in result.conditions]


def brief(line: Line | None) -> str:
    """The speed-up in one word."""
    if line is None or line.row.error is not None:
        return NONE if line is None else "failed"
    interval, star = starred(line.row)
    if interval is None:
        return NONE
    text = f"{times(interval.value)}{star}"
    return f"({text})" if line.note else text


def notes_of(section: Section) -> list[str]:
    """The words of `NOTES` that occur."""
    lines = [line for block in (*section.methods, *section.peers) for line in block.lines]
    return [word for word in NOTES if any(line.note == word for line in lines)]


def remarks(result: Result) -> list[str]:
    """One line for each row that failed, whose check failed, or whose check has something to say."""
    lines = []
    for row in result.rows:
        found = [f"failed: {row.error}"] if row.error is not None else []
        if row.check and not row.check.is_passed:
            found.append(f"check {checked(row.check)}, deficit {deficit(row.check)} nats")
        if row.check and row.check.note:
            found.append(row.check.note)
        lines += [f"{row.contestant}, {row.condition}, {row.group}: {'; '.join(found)}"] if found else []
    return lines
