"""The Contestant protocol: who answers prompts in a benchmark, and what is asked and noted.

The same for methods of this project and for peers in other processes. Does not know suites, statistics or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from evodraft.types import GenerationStats

Kind = Literal["method", "peer"]

_WARM_UP_TOKENS: Final = 8


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt and how it is to be continued. Every contestant stops at the same ids and the same length."""

    token_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0  # 0 = greedy; no other truncation
    repetition_penalty: float = 1.0  # transformers' rule: over prompt and output
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def shortened(self) -> Ask:
        """The same for a warm-up: a few tokens are enough."""
        return replace(self, max_new_tokens=min(_WARM_UP_TOKENS, self.max_new_tokens))


@dataclass(frozen=True, slots=True)
class Answer:
    """What one prompt was continued with."""

    token_ids: tuple[int, ...]  # all that was decoded, the stop token included
    stats: GenerationStats | None = None  # of contestants that count; a peer fills in what it tells
    error: str | None = None  # why there is no answer


class RoundRecord(NamedTuple):
    """One round of one request: what was guessed and where the seconds of its engine step went."""

    num_drafted: int
    num_accepted: int
    draft_s: float
    score_s: float
    batch_size: int  # requests that shared these seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """A batch of answers and how long it took."""

    answers: tuple[Answer, ...]  # one for each Ask, in order
    request_s: float  # from the prompts as ids to all output ids, reading the prompts included
    decode_s: float | None = None  # without reading the prompts; None = the contestant cannot tell
    learn_s: float = 0.0  # of decode_s, what went into feedback and learners
    rounds: tuple[RoundRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a contestant holds. A method counts its tensors; a peer is seen from outside, as a process."""

    weights_bytes: int | None = None  # target and draft
    cache_bytes: int | None = None  # target and draft, as far as they have grown
    learner_bytes: int | None = None
    resident_bytes: int | None = None  # peak of the whole process


@dataclass(frozen=True, slots=True)
class Profile:
    """What a reader must know of a contestant beside its figures."""

    name: str
    kind: Kind
    options: Mapping[str, object] = field(default_factory=dict)  # as a user would write them
    versions: Mapping[str, str] = field(default_factory=dict)  # of the peer's own environment
    is_exact: bool = True  # claims the target's own output law
    synthetic: str | None = None  # why its figures are no figures of a real model: forced acceptance, random weights
    label: str = ""  # e.g. "third-party build"
    max_batch: int = 1024  # prompts it decodes together


class Contestant(Protocol):
    """Answers batches of prompts."""

    profile: Profile

    def reset(self) -> None:
        """Forgets everything that was learnt from earlier prompts."""
        ...

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        """Answers one batch. A fault of one prompt stands in its answer; raises BenchError if nothing works."""
        ...

    def memory(self) -> Memory:
        """What it holds now."""
        ...

    def close(self) -> None:
        """Ends it; closing twice is fine."""
        ...
