"""What a run has found so far, and the result that becomes of it. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from evodraft.bench.checks import Judge
from evodraft.bench.contestants import Memory
from evodraft.bench.environment import describe_machine, describe_model
from evodraft.bench.judging import judged_turns
from evodraft.bench.own import Method
from evodraft.bench.places import written
from evodraft.bench.result import (
    ALL,
    CONTROL,
    MAX_NOISE_WIDTH,
    SCHEMA,
    ConditionRecord,
    ContestantRecord,
    Item,
    Noise,
    Result,
    Row,
    SuiteRecord,
)
from evodraft.bench.rows import Table, item_of
from evodraft.errors import BenchError
from evodraft.machine import software_versions, source_commit

if TYPE_CHECKING:
    from evodraft.bench.checks import Rule
    from evodraft.bench.contestants import Contestant
    from evodraft.bench.measure import Turn
    from evodraft.bench.plan import Order, Plan
    from evodraft.bench.suites import Condition

_DETERMINED = ("coupled", "auto")  # verifiers that let a seed decide every token


class Record:
    """Grows by one condition after the other."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._rows: list[Row] = []
        self._items: list[Item] = []
        self._conditions: list[ConditionRecord] = []
        self._contestants: dict[str, ContestantRecord] = {}
        self._prompts = sha256()

    def add(self, plan: Plan, contestants: Sequence[Contestant], turns: Sequence[Turn]) -> None:
        """One condition that has been measured; `contestants[0]` is the baseline and still open."""
        condition = plan.condition
        baseline = contestants[0]
        assert isinstance(baseline, Method)
        judge = Judge(baseline.engine.target.decoder, self._order.vocab_size, self._order.target.model.dtype)
        rules = {contestant.profile.name: _rule(condition, contestant) for contestant in contestants}
        table = Table(
            condition,
            judged_turns(turns, judge, rules),
            rules,
            {name: judge.tolerance(condition.temperature, rule) for name, rule in rules.items()},
            {contestant.profile.name: contestant.profile for contestant in contestants},
        )
        groups = [group for group in self._order.suite.groups if any(turn.batch.group == group for turn in turns)]
        self._rows += table.rows(groups)
        self._items += [item_of(turn, condition.name) for turn in turns]
        self._conditions.append(self._described(plan))
        for contestant in contestants:
            self._note(contestant)
        for ask in (ask for batch in plan.batches for ask in batch.asks):
            self._prompts.update(repr(ask.token_ids).encode())

    def result(self, seconds: float) -> Result:
        """All of it, with where and when."""
        order, suite = self._order, self._order.suite
        return Result(
            schema=SCHEMA,
            date=datetime.now(UTC).date().isoformat(),
            commit=source_commit(),
            command=order.command,
            seconds=round(seconds, 1),
            suite=SuiteRecord(
                name=suite.name,
                sha256=suite.sha256,
                prompts_sha256=self._prompts.hexdigest(),
                sources=tuple(source.label for source in suite.sources),
                is_quick=suite.is_quick,
                max_new_tokens=suite.max_new_tokens,
                phases=suite.phases,
            ),
            model=describe_model(order.model, order.target, order.synthetic),
            machine=describe_machine(order.target.model.device),
            versions=software_versions(),
            seed=suite.seed,
            baseline=order.baseline,
            conditions=tuple(self._conditions),
            contestants=tuple(self._contestants.values()),
            rows=tuple(self._rows),
            items=tuple(self._items),
            noise=self._noise(),
            notes=order.notes,
        )

    def _described(self, plan: Plan) -> ConditionRecord:
        condition, repeats = plan.condition, range(self._order.suite.repeats)
        return ConditionRecord(
            name=condition.name,
            temperature=condition.temperature,
            repetition_penalty=condition.repetition_penalty,
            batch_size=condition.batch_size,
            verifier=condition.verifier,
            prompt_tokens=condition.prompt_tokens,
            seeds=tuple(plan.batches[0].again(repeat)[0].seed for repeat in repeats),
        )

    def _note(self, contestant: Contestant) -> None:
        """Who took part, with the most memory that was seen."""
        profile, memory = contestant.profile, _memory(contestant)
        known = self._contestants.get(profile.name)
        if known is not None and known.memory is not None:
            memory = known.memory if memory is None else _largest(known.memory, memory)
        self._contestants[profile.name] = ContestantRecord(
            name=profile.name,
            kind=profile.kind,
            options=written(profile.options),
            versions=profile.versions,
            is_exact=profile.is_exact,
            synthetic=profile.synthetic,
            label=profile.label,
            memory=memory,
        )

    def _noise(self) -> Noise | None:
        """What the control says; None where it failed, which is no quiet machine either."""
        row = next(row for row in self._rows if row.contestant == CONTROL and row.group == ALL)
        interval = row.speed_up
        if interval is None:
            return None
        is_quiet = interval.low <= 1.0 <= interval.high and interval.high - interval.low < MAX_NOISE_WIDTH
        return Noise(row.condition, interval, is_quiet)


def _rule(condition: Condition, contestant: Contestant) -> Rule:
    if condition.temperature == 0:
        return "greedy"
    verifier = contestant.profile.options.get("verifier", condition.verifier)
    is_own = contestant.profile.kind == "method"
    return "coupled" if is_own and verifier in _DETERMINED else "sampled"


def _memory(contestant: Contestant) -> Memory | None:
    """None of a contestant that is gone; its rows say why."""
    try:
        return contestant.memory()
    except BenchError:
        return None


def _largest(one: Memory, other: Memory) -> Memory:
    fields = ("weights_bytes", "cache_bytes", "learner_bytes", "resident_bytes")
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in fields}
    return replace(
        one, **{n: max(known) if (known := [v for v in p if v is not None]) else None for n, p in pairs.items()}
    )
