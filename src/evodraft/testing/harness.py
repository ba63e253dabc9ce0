"""The production engine over a table, with a clock that only counts, and requests run to their end.

Does not know what the outcome should be: that is `evodraft.testing.reference`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.config import EngineConfig
from evodraft.engine import Engine
from evodraft.sampling import HashedStream
from evodraft.target import Target
from evodraft.testing.table import TableDecoder
from evodraft.verifiers.rejection import RejectionVerifier

if TYPE_CHECKING:
    from evodraft.controllers.base import Controller
    from evodraft.drafters.base import Drafter
    from evodraft.learners.base import Learner
    from evodraft.sampling import RandomStream
    from evodraft.session import Session
    from evodraft.testing.table import TableLM
    from evodraft.types import Request
    from evodraft.verifiers.base import Verifier


class CountingClock:
    """Seconds that go forward by one at every reading.

    >>> clock = CountingClock()
    >>> clock(), clock()
    (0.0, 1.0)
    """

    def __init__(self) -> None:
        self._count = itertools.count()

    def __call__(self) -> float:
        return float(next(self._count))


def table_engine(
    table: TableLM,
    drafter: Drafter | None = None,
    controller: Controller | None = None,
    verifier: Verifier | None = None,
    learners: Sequence[Learner] = (),
    *,
    stream: RandomStream = HashedStream(),
    config: EngineConfig = EngineConfig(),
) -> Engine:
    """An engine whose target is a table; without a verifier it verifies by rejection.

    >>> from evodraft.params import SamplingParams
    >>> from evodraft.testing.table import TableLM
    >>> from evodraft.types import Request
    >>> engine = table_engine(TableLM.random(seed=3))
    >>> outputs(engine, [Request("a", (1, 2), SamplingParams(max_new_tokens=4, temperature=1.0), seed=0)])
    ((2, 1, 2, 1),)
    """
    taps = drafter.needs.taps if drafter is not None else ()
    target = Target(TableDecoder(table, config.max_batch), taps=taps)
    return Engine(
        target, verifier or RejectionVerifier(), drafter, controller, learners, config, stream, CountingClock()
    )


def run_all(engine: Engine, requests: Sequence[Request], max_steps: int = 10_000) -> list[Session]:
    """Submits all requests and steps until none is left."""
    sessions = [engine.submit(request) for request in requests]
    for _ in range(max_steps):
        if not engine.has_work:
            return sessions
        engine.step()
    raise AssertionError(f"the engine still has work after {max_steps} steps")


def outputs(engine: Engine, requests: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
    """What each request committed, a final stop token included; raises the error of a failed one."""
    sessions = run_all(engine, requests)
    for session in sessions:
        if session.error is not None:
            raise session.error
    return tuple(tuple(session.token_ids[session.num_prompt_tokens :]) for session in sessions)
