"""Turns to rows: speeds, ratios, counts, checks. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from evodraft.bench.checks import check_determined, check_drawn
from evodraft.bench.judging import rounds_of, total
from evodraft.bench.measure import Turn
from evodraft.bench.result import ALL, MIN_DISTINCT_4, VARIED, Item, Row, TimeSplit
from evodraft.bench.statistics import Costs, Pair, Run, distinct_share, median_ratio, pass_costs, speed_up

if TYPE_CHECKING:
    from evodraft.bench.checks import Rule
    from evodraft.bench.contestants import Profile
    from evodraft.bench.judging import Judged, Key
    from evodraft.bench.result import Check
    from evodraft.bench.suites import Condition
    from evodraft.types import GenerationStats

Figure = TypeVar("Figure")
Clock = Callable[[str, Turn], float | None]
"""Seconds of one contestant's turn; None = it cannot tell."""


@dataclass(frozen=True, slots=True)
class Table:
    """All turns of one condition, by contestant; the baseline is the first."""

    condition: Condition
    turns: Mapping[str, Mapping[Key, Judged]]
    rules: Mapping[str, Rule]
    tolerances: Mapping[str, float]
    profiles: Mapping[str, Profile]

    @property
    def baseline_name(self) -> str:
        return next(iter(self.turns))

    @property
    def baseline(self) -> Mapping[Key, Judged]:
        return self.turns[self.baseline_name]

    def rows(self, groups: Sequence[str]) -> list[Row]:
        """One row for each contestant on each group, and on all of them."""
        costs = self._costs()
        return [self._row(name, group, costs) for group in (*groups, *self._varied_group(), ALL) for name in self.turns]

    def _varied_group(self) -> list[str]:
        """A group of its own for the prompts whose greedy answer does not loop, if they are some and not all."""
        varied = [self._is_in(VARIED, key) for key in self.baseline] if self.condition.temperature == 0 else []
        return [VARIED] if any(varied) and not all(varied) else []

    def _is_in(self, group: str, key: Key) -> bool:
        """Whether a batch of prompts belongs to a group; what varies is decided by the baseline's answers."""
        turn = self.baseline[key].turn
        if group != VARIED:
            return group in (ALL, turn.batch.group)
        return (_distinct_4([turn]) or 0.0) >= MIN_DISTINCT_4

    def _row(self, name: str, group: str, costs: Mapping[str, Costs]) -> Row:
        keys = [key for key in self.turns[name] if self._is_in(group, key)]
        own = [self.turns[name][key] for key in keys]
        row = Row(
            group=group,
            condition=self.condition.name,
            contestant=name,
            num_prompts=sum(len(judged.turn.asks) for judged in own if judged.turn.repeat == 0),
            num_repeats=len({key.repeat for key in keys}),
            num_tokens=sum(judged.turn.num_tokens for judged in own),
        )
        failed = [error for key in keys for error in (self._error(name, key),) if error is not None]
        if failed:
            return replace(row, error=f"{len(failed)} of {len(keys)} answers failed; the first: {failed[0]}")
        row = _with_counts(row, own)
        check = self._check(name, own)
        replayed = self._pairs(
            name, keys, lambda who, turn: costs[who].replay(turn.outcome.rounds) if who in costs else None
        )
        return replace(
            row,
            speed_up=_if_known(speed_up, self._pairs(name, keys, lambda _, turn: turn.outcome.decode_s)),
            request_speed_up=_if_known(speed_up, self._pairs(name, keys, lambda _, turn: turn.outcome.request_s)),
            replayed_speed_up=_if_known(median_ratio, replayed),
            check=check,
            is_counted=self._is_right(name, check, group) and not self._is_flattered(row, own, keys),
            time_split=time_split(own),
        )

    def _is_right(self, name: str, check: Check, group: str) -> bool:
        """Whether it says what the target says and is real, and so does the baseline that it is divided by."""
        baseline = [judged for key, judged in self.baseline.items() if self._is_in(group, key)]
        is_baseline_right = self._check(self.baseline_name, baseline).is_passed
        return check.kind != "none" and check.is_passed and is_baseline_right and not self.profiles[name].synthetic

    def _is_flattered(self, row: Row, own: Sequence[Judged], keys: Iterable[Key]) -> bool:
        """Whether greedy text that repeats itself was easy to guess, for this contestant or for the baseline."""
        is_repetitive = self.condition.temperature == 0 and (row.distinct_4 or 0.0) < MIN_DISTINCT_4
        return is_repetitive and (_drafts(own) or _drafts([self.baseline[key] for key in keys]))

    def _error(self, name: str, key: Key) -> str | None:
        """Why an answer cannot be compared: it failed, said nothing, or the baseline has none."""
        turn, baseline = self.turns[name][key].turn, self.baseline[key].turn
        for who, found in (("", turn), ("the baseline: ", baseline)):
            if found.error is not None:
                return who + found.error
            if found.num_tokens == 0:
                return f"{who}no tokens came out"
        return None

    def _pairs(self, name: str, keys: Iterable[Key], seconds: Clock) -> dict[int, list[Pair]] | None:
        """This contestant beside the baseline, by prompt; None where the clock cannot tell one of them."""
        pairs: dict[int, list[Pair]] = {}
        for key in keys:
            runs = []
            for who, judged in ((name, self.turns[name][key]), (self.baseline_name, self.baseline[key])):
                taken = seconds(who, judged.turn)
                if taken is None:
                    return None
                runs.append(Run(judged.turn.num_tokens, taken))
            pairs.setdefault(key.number, []).append(Pair(*runs))
        return pairs

    def _check(self, name: str, own: Sequence[Judged]) -> Check:
        findings = [finding for judged in own for finding in judged.findings]
        is_exact = self.profiles[name].is_exact
        if self.rules[name] == "sampled":
            return check_drawn(findings, is_exact=is_exact)
        num_identical = sum(judged.num_identical for judged in own)
        return check_determined(findings, self.tolerances[name], num_identical, is_exact=is_exact)

    def _costs(self) -> dict[str, Costs]:
        """Mean costs of contestants at batch size 1; those with the same options (the control) share theirs."""
        if self.condition.batch_size > 1:
            return {}
        pass_s = pass_costs([item for turns in self.turns.values() for item in rounds_of(turns.values())])
        costs = {}
        for name in self.turns:
            alike = [other for other in self.turns if self.profiles[other].options == self.profiles[name].options]
            judged = [item for other in alike for item in self.turns[other].values()]
            decode_s = total([item.turn.outcome.decode_s for item in judged])
            if decode_s is not None and rounds_of(judged):
                costs[name] = Costs(pass_s, rounds_of(judged), decode_s)
        return costs


def item_of(turn: Turn, condition: str) -> Item:
    """What the result keeps of a turn."""
    stats = _known(turn)
    return Item(
        number=turn.batch.number,
        group=turn.batch.group,
        condition=condition,
        contestant=turn.contestant,
        repeat=turn.repeat,
        num_tokens=turn.num_tokens,
        request_s=round(turn.outcome.request_s, 6),
        decode_s=None if turn.outcome.decode_s is None else round(turn.outcome.decode_s, 6),
        num_rounds=None if stats is None else sum(s.num_rounds for s in stats),
        num_draft_tokens=None if stats is None else sum(s.num_draft_tokens for s in stats),
        num_accepted_tokens=None if stats is None else sum(s.num_accepted_tokens for s in stats),
        error=turn.error,
    )


def time_split(own: Sequence[Judged]) -> TimeSplit | None:
    """Mean milliseconds of an engine step; its seconds are shared by the batch. None without rounds or their clock."""
    rounds = rounds_of(own)
    decode_s = total([judged.turn.outcome.decode_s for judged in own])
    if not rounds or decode_s is None:
        return None
    num_steps = sum(1 / item.batch_size for item in rounds)
    draft_s = sum(item.draft_s / item.batch_size for item in rounds)
    verify_s = sum(item.score_s / item.batch_size for item in rounds)
    learn_s = sum(judged.turn.outcome.learn_s for judged in own)
    rest_s = decode_s - draft_s - verify_s - learn_s
    return TimeSplit(*(1e3 * seconds / num_steps for seconds in (draft_s, verify_s, rest_s, learn_s)))


def _with_counts(row: Row, own: Sequence[Judged]) -> Row:
    turns = [judged.turn for judged in own]
    decode_s = total([turn.outcome.decode_s for turn in turns])
    row = replace(
        row,
        tokens_per_s=None if decode_s is None else row.num_tokens / decode_s,
        request_tokens_per_s=row.num_tokens / sum(turn.outcome.request_s for turn in turns),
        distinct_4=_distinct_4(turns),
    )
    known_stats = [_known(turn) for turn in turns]
    stats = [item for found in known_stats if found is not None for item in found]
    return row if None in known_stats else _with_acceptance(row, stats)


def _distinct_4(turns: Sequence[Turn]) -> float | None:
    """Mean over outputs; None where all are too short to tell."""
    shares = [distinct_share(answer.token_ids) for turn in turns for answer in turn.outcome.answers]
    known = [share for share in shares if share is not None]
    return fmean(known) if known else None


def _with_acceptance(row: Row, stats: Sequence[GenerationStats]) -> Row:
    num_rounds = sum(s.num_rounds for s in stats)
    num_drafted = sum(s.num_draft_tokens for s in stats)
    num_passes = sum(s.num_target_passes for s in stats)
    depth = max((len(s.accepted_per_position) for s in stats), default=0)
    accepted = [
        sum(s.accepted_per_position[i] for s in stats if i < len(s.accepted_per_position)) for i in range(depth)
    ]
    return replace(
        row,
        mean_acceptance_length=sum(s.num_round_tokens for s in stats) / num_rounds if num_rounds else None,
        acceptance_rate=sum(s.num_accepted_tokens for s in stats) / num_drafted if num_drafted else None,
        tokens_per_target_pass=row.num_tokens / num_passes if num_passes else None,
        per_position_rates=tuple(count / num_rounds for count in accepted) if num_rounds else (),
    )


def _drafts(judged: Sequence[Judged]) -> bool:
    """Whether anything was drafted, or may have been: a contestant need not tell."""
    known = [_known(item.turn) for item in judged]
    return any(stats is None or any(item.num_draft_tokens for item in stats) for stats in known)


def _known(turn: Turn) -> list[GenerationStats] | None:
    """Counters of all answers of a turn, or None if the contestant does not tell."""
    stats = [answer.stats for answer in turn.outcome.answers]
    return None if None in stats else [item for item in stats if item is not None]


def _if_known(figure: Callable[[dict[int, list[Pair]]], Figure], pairs: dict[int, list[Pair]] | None) -> Figure | None:
    return None if pairs is None else figure(pairs)
