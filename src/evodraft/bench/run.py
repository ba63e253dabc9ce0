"""One run of one suite: take turns, check, sum up. Prints nothing and decodes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from evodraft.bench.measure import measure
from evodraft.bench.obligations import held
from evodraft.bench.own import Method, Stage
from evodraft.bench.plan import Order, Plan, plans_of
from evodraft.bench.record import Record
from evodraft.config import EngineConfig

if TYPE_CHECKING:
    from evodraft.bench.contestants import Contestant
    from evodraft.bench.result import Result


class Step(NamedTuple):
    """How far a run has come."""

    condition: str
    num_done: int  # turns, of all conditions
    num_turns: int


Notify = Callable[[Step], None]


def run(order: Order, peers: Sequence[Contestant] = (), notify: Notify = lambda step: None) -> Result:
    """Measures all conditions of a suite. The peers stay open; they belong to the caller."""
    started = time.perf_counter()
    record = Record(order)
    plans = plans_of(order, peers)
    num_done, num_all = 0, order.suite.repeats * sum(plan.num_turns for plan in plans)
    for plan in plans:
        with ExitStack() as stack:
            contestants: list[Contestant] = [*_methods(order, plan, stack), *plan.peers]
            turns = []
            for turn in measure(contestants, plan.batches, order.suite.repeats):
                turns.append(held(turn, order.vocab_size))
                num_done += 1
                notify(Step(plan.condition.name, num_done, num_all))
            record.add(plan, contestants, turns)
    return record.result(time.perf_counter() - started)


def _methods(order: Order, plan: Plan, stack: ExitStack) -> list[Method]:
    verifier = order.forced_verifier or plan.condition.verifier
    config = EngineConfig(max_batch=plan.condition.batch_size)
    stage = Stage(order.target, order.load, config, verifier, order.synthetic)
    methods = []
    for name, options in plan.methods.items():
        methods.append(Method(name, options, stage))
        stack.callback(methods[-1].close)
    return methods
