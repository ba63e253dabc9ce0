"""The measuring loop: who answers what, and when. Computes no figures.

Contestants take turns prompt by prompt (A B A B), so that the drift of a machine hits all of them. The baseline comes
first; the others begin with another one at every prompt. Every repeat starts from reset state, asks each prompt once,
and has seeds of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from evodraft.bench.contestants import Answer, Outcome

if TYPE_CHECKING:
    from evodraft.bench.contestants import Ask, Contestant

_SETTLING_S = 0.25  # after a peer's turn: threads of its process may spin on the cores for that long


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that are asked together."""

    number: int  # within the condition
    group: str
    asks: tuple[Ask, ...]  # with the seeds of the first repeat

    def again(self, repeat: int) -> tuple[Ask, ...]:
        """The asks of a later repeat, with other seeds."""
        return tuple(replace(ask, seed=ask.seed + repeat) for ask in self.asks)


class Turn(NamedTuple):
    """One contestant's answer to one batch."""

    contestant: str
    batch: Batch
    repeat: int
    asks: tuple[Ask, ...]
    outcome: Outcome

    @property
    def error(self) -> str | None:
        return next((answer.error for answer in self.outcome.answers if answer.error is not None), None)

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.outcome.answers)


def measure(
    contestants: Sequence[Contestant],
    batches: Sequence[Batch],
    repeats: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Turn]:
    """All turns of one condition in order; `contestants[0]` is the baseline. The warm-up is not among them."""
    for contestant in contestants:
        _warm_up(contestant, batches[0])
    for repeat in range(repeats):
        for contestant in contestants:
            _reset(contestant)
        for batch in batches:
            asks = batch.again(repeat)
            for contestant in _in_order(contestants, batch.number + repeat):
                yield Turn(contestant.profile.name, batch, repeat, asks, _answered(contestant, asks))
                if contestant.profile.kind == "peer":
                    sleep(_SETTLING_S)


def _in_order(contestants: Sequence[Contestant], shift: int) -> list[Contestant]:
    """The baseline, then the others from another one on."""
    others = contestants[1:]
    start = shift % len(others) if others else 0
    return [contestants[0], *others[start:], *others[:start]]


def _warm_up(contestant: Contestant, batch: Batch) -> None:
    """A short answer that is forgotten; what fails here will fail again where it is noted."""
    _answered(contestant, [ask.shortened() for ask in batch.asks])


def _answered(contestant: Contestant, asks: Sequence[Ask]) -> Outcome:
    """The outcome; whatever a contestant raises is the failure of this turn alone."""
    try:
        return contestant.generate(asks)
    except Exception as error:  # a peer or a part that is broken must not end the run of the others
        _reset(contestant)
        return Outcome(tuple(Answer((), error=f"{type(error).__name__}: {error}") for _ in asks), request_s=0.0)


def _reset(contestant: Contestant) -> None:
    """Forgets what was learnt; who cannot is gone, and its next answer says why."""
    with suppress(Exception):  # whatever a contestant raises must not end the run of the others
        contestant.reset()
