"""Turns with what the target says of their outputs. Computes no figures of speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from evodraft.bench.checks import Finding, Judge, Rule
    from evodraft.bench.contestants import RoundRecord
    from evodraft.bench.measure import Turn


class Key(NamedTuple):
    """What a turn of one contestant has in common with the baseline's."""

    number: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A turn with what the target said of its outputs."""

    turn: Turn
    findings: tuple[Finding, ...]
    num_identical: int  # outputs that equal the baseline's


def judged_turns(turns: Sequence[Turn], judge: Judge, rules: Mapping[str, Rule]) -> dict[str, dict[Key, Judged]]:
    """Turns by contestant and key, in the order of `rules`, each output checked against the target."""
    by_name: dict[str, dict[Key, Turn]] = {name: {} for name in rules}
    for turn in turns:
        by_name[turn.contestant][Key(turn.batch.number, turn.repeat)] = turn
    baseline = next(iter(by_name.values()))
    return {
        name: {key: _judged(turn, baseline[key], judge, rules[name]) for key, turn in found.items()}
        for name, found in by_name.items()
    }


def rounds_of(judged: Iterable[Judged]) -> list[RoundRecord]:
    """All rounds of some turns."""
    return [item for found in judged for item in found.turn.outcome.rounds]


def total(seconds: Sequence[float | None]) -> float | None:
    """The sum; None if one of them is not known."""
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None


def _judged(turn: Turn, baseline: Turn, judge: Judge, rule: Rule) -> Judged:
    pairs = list(zip(turn.asks, turn.outcome.answers, strict=True))
    is_judged = turn.error is None and baseline.error is None  # else the row fails anyway
    findings = tuple(judge.find(ask, answer.token_ids, rule) for ask, answer in pairs if is_judged)
    same = zip(turn.outcome.answers, baseline.outcome.answers, strict=True)
    return Judged(turn, findings, sum(answer.token_ids == other.token_ids for answer, other in same))
