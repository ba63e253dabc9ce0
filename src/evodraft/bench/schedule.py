"""Which prompts are asked together, in which order, with which seeds. Does not know who answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from evodraft.bench.contestants import Ask
from evodraft.bench.measure import Batch
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.bench.suites import Condition, Suite

_SEED_STRIDE = 1_000  # seeds of one prompt: one for each repeat


class Encoded(NamedTuple):
    """A prompt as the models see it."""

    group: str
    token_ids: tuple[int, ...]


def batches_of(
    suite: Suite, condition: Condition, prompts: Sequence[Encoded], stop_token_ids: Iterable[int]
) -> list[Batch]:
    """Batches of `condition.batch_size` prompts of one group each; what does not fill a batch is left out.

    Groups take turns, so that drift hits all of them; a stream keeps the order of its phases, in which `prompts` come.

    Raises BenchError if a group cannot fill a batch.
    """
    stops = tuple(sorted(stop_token_ids))
    asks = [_ask(suite, condition, number, prompt, stops) for number, prompt in enumerate(prompts)]
    pairs = [(prompt.group, ask) for prompt, ask in zip(prompts, asks, strict=True)]
    if suite.phases:
        return [Batch(number, group, (ask,)) for number, (group, ask) in enumerate(pairs)]
    by_group = [list(_filled(group, pairs, condition.batch_size)) for group in suite.groups]
    in_turn = (batch for batch in chain.from_iterable(zip_longest(*by_group)) if batch is not None)
    return [Batch(number, *batch) for number, batch in enumerate(in_turn)]


def _filled(group: str, pairs: Sequence[tuple[str, Ask]], size: int) -> Iterator[tuple[str, tuple[Ask, ...]]]:
    asks = [ask for name, ask in pairs if name == group]
    if len(asks) < size:
        raise BenchError(
            f"group {group!r} has {len(asks)} prompts and a batch takes {size}; raise --prompts-per-group to {size}"
        )
    for start in range(0, len(asks) - size + 1, size):
        yield group, tuple(asks[start : start + size])


def _ask(suite: Suite, condition: Condition, number: int, prompt: Encoded, stops: tuple[int, ...]) -> Ask:
    return Ask(
        token_ids=prompt.token_ids,
        max_new_tokens=suite.max_new_tokens,
        temperature=condition.temperature,
        repetition_penalty=condition.repetition_penalty,
        seed=suite.seed * _SEED_STRIDE**2 + number * _SEED_STRIDE,
        stop_token_ids=stops,
    )
