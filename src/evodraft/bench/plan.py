"""What a run is asked to measure, and what that means for each condition. Measures nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evodraft.assemble import LoadOptions
from evodraft.bench.prompts import encode
from evodraft.bench.result import CONTROL
from evodraft.bench.schedule import Encoded, batches_of
from evodraft.errors import BenchError, UnknownOptionError
from evodraft.runtime.support import ModelFacts

if TYPE_CHECKING:
    from pathlib import Path

    from evodraft.assemble import LoadedTarget
    from evodraft.bench.contestants import Contestant
    from evodraft.bench.measure import Batch
    from evodraft.bench.prompts import Prompt
    from evodraft.bench.suites import Condition, Suite

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be measured, and on what.

    Raises UnknownOptionError for a baseline that is not among the methods, BenchError for answers that leave no room
    for a prompt.
    """

    suite: Suite
    prompts: Sequence[Prompt]
    target: LoadedTarget
    model: str = "demo"
    baseline: str = PLAIN  # a method of the suite, or plain decoding
    load: LoadOptions = field(default_factory=LoadOptions)
    synthetic: str | None = None  # why no figure is one of a real model
    forced_verifier: object = None  # takes the place of every condition's; such results are synthetic
    folder: Path | None = None  # of the target's weights, where `model` is no name that a peer could load
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what a reader of the result should know

    def __post_init__(self) -> None:
        known = {PLAIN: {}, **self.suite.methods}
        if self.baseline not in known:
            raise UnknownOptionError("baseline", self.baseline, known)
        if self.suite.max_new_tokens >= self.max_length:
            raise BenchError(
                f"max_new_tokens={self.suite.max_new_tokens} leaves no room for a prompt in the target's context of "
                f"{self.max_length} tokens; use max_new_tokens <= {self.max_length - 1}, less what the prompts have"
            )

    @property
    def methods(self) -> dict[str, Mapping[str, object]]:
        """Name -> options, the baseline first; plain decoding is always among them."""
        known: dict[str, Mapping[str, object]] = {PLAIN: {"drafter": None}, **self.suite.methods}
        return {self.baseline: known[self.baseline], **known}

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """What ends an answer, whoever gives it."""
        return frozenset() if self.suite.ignore_eos else self.target.eos_token_ids

    @property
    def vocab_size(self) -> int:
        return ModelFacts.of(self.target.model).vocab_size

    @property
    def max_length(self) -> int:
        """Tokens per sequence that the target takes."""
        return ModelFacts.of(self.target.model).context_length or sys.maxsize


@dataclass(frozen=True, slots=True)
class Plan:
    """One condition before it is measured: what is asked, and of whom."""

    condition: Condition
    batches: Sequence[Batch]
    methods: Mapping[str, Mapping[str, object]]  # the baseline first, then the control if this is where noise is judged
    peers: Sequence[Contestant]

    @property
    def num_turns(self) -> int:
        """In one repeat."""
        return (len(self.methods) + len(self.peers)) * len(self.batches)


def plans_of(order: Order, peers: Sequence[Contestant]) -> list[Plan]:
    """One plan for each condition of the suite. Raises BenchError for prompts that do not fit."""
    return [_plan(order, condition, peers) for condition in order.suite.conditions]


def _plan(order: Order, condition: Condition, peers: Sequence[Contestant]) -> Plan:
    target, suite = order.target, order.suite
    limit = order.max_length - suite.max_new_tokens
    token_ids = encode(order.prompts, target.tokenizer, condition, order.vocab_size, limit)
    encoded = [Encoded(prompt.group, ids) for prompt, ids in zip(order.prompts, token_ids, strict=True)]
    methods = dict(order.methods)
    if condition is suite.conditions[0]:
        baseline, *others = methods
        methods = {baseline: methods[baseline], CONTROL: methods[baseline], **{name: methods[name] for name in others}}
    return Plan(
        condition,
        batches_of(suite, condition, encoded, order.stop_token_ids),
        methods,
        [peer for peer in peers if _fits(peer, condition)],
    )


def _fits(peer: Contestant, condition: Condition) -> bool:
    """Peers have no coupled noise, and not all of them take batches."""
    return condition.verifier != "coupled" and condition.batch_size <= peer.profile.max_batch
