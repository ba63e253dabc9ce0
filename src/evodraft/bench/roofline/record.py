"""The roofline as a record, and what follows from its figures by arithmetic. Measures nothing.

Definitions. `limit_ms` = bytes that one token reads / bytes per second of the fastest kernel. The best possible
speculative decoding is one pass of the target and k steps of the draft a round, each at its limit, for m committed
tokens (the mean acceptance length, bonus included):

    ms per token = (target limit + k x draft limit) / m

It assumes that scoring k + 1 tokens reads the weights once and costs no more than scoring one, that a step of the draft
reads all of the draft's weights, and that nothing else takes time. Nothing of this holds exactly: it is a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.bench.result import MachineRecord, ModelRecord

SCHEMA: Final = "evodraft.roofline/1"
_FORMULAS: Final[Mapping[str, str]] = {
    "limit_ms": "bytes one token reads / bytes per second of the fastest kernel measured",
    "over_limit": "plain_ms / limit_ms of the target",
    "speculation.limit_ms": "(limit_ms of the target + num_draft_tokens x limit_ms of the draft) "
    "/ mean_acceptance_length",
    "speculation.speed_up_at_limit": "limit_ms of the target / speculation.limit_ms",
    "speculation.best_speed_up": "plain_ms / speculation.limit_ms",
    "speculation.expected_speed_up": "plain_ms x mean_acceptance_length / (plain_ms - pass of 1 token "
    "+ pass of num_draft_tokens + 1 tokens + num_draft_tokens x draft step), all as measured here",
}


@dataclass(frozen=True, slots=True)
class ReadBytes:
    """What is read for one token."""

    matrices: int  # of the decoder layers
    head: int
    vectors: int  # norms and biases
    cache: int  # keys and values of the context

    @property
    def total(self) -> int:
        return self.matrices + self.head + self.vectors + self.cache


@dataclass(frozen=True, slots=True)
class KernelSpeed:
    """How fast one kernel reads all matrices of a model and its head."""

    name: str
    ms: float  # median of a sweep
    gb_per_s: float  # 10^9 bytes


@dataclass(frozen=True, slots=True)
class Limit:
    """The best that reading allows for one model."""

    read_bytes: ReadBytes
    kernels: tuple[KernelSpeed, ...]
    left_out: Mapping[str, str]  # kernel -> why it did not run here

    @property
    def best(self) -> KernelSpeed:
        """The fastest kernel: the limit is its."""
        return max(self.kernels, key=lambda kernel: kernel.gb_per_s)

    @property
    def limit_ms(self) -> float:
        """Milliseconds that reading the bytes of one token takes."""
        return self.read_bytes.total / self.best.gb_per_s / 1e6


@dataclass(frozen=True, slots=True)
class PassCost:
    """One pass of this runtime's decoder over a few new tokens of one sequence."""

    num_tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class Speculation:
    """What speculative decoding could reach at a given mean acceptance length."""

    mean_acceptance_length: float
    num_draft_tokens: int
    limit_ms: float  # per token
    speed_up_at_limit: float  # over plain decoding that is at its limit too
    best_speed_up: float  # over plain decoding as measured
    expected_speed_up: float | None  # over plain decoding as measured, with passes as measured; None without a draft

    @classmethod
    def at(cls, acceptance_length: float, num_draft_tokens: int, costs: Roofline) -> Speculation:
        """From costs in which a pass over `num_draft_tokens` + 1 tokens was measured."""
        target_ms = costs.target.limit_ms
        draft_ms = costs.draft.limit_ms if costs.draft else 0.0
        limit_ms = (target_ms + num_draft_tokens * draft_ms) / acceptance_length
        expected = None
        if costs.draft_step_ms is not None:
            passes = {cost.num_tokens: cost.ms for cost in costs.passes}
            other_ms = costs.plain_ms - passes[1]
            round_ms = other_ms + passes[num_draft_tokens + 1] + num_draft_tokens * costs.draft_step_ms
            expected = costs.plain_ms * acceptance_length / round_ms
        return cls(
            mean_acceptance_length=acceptance_length,
            num_draft_tokens=num_draft_tokens,
            limit_ms=limit_ms,
            speed_up_at_limit=target_ms / limit_ms,
            best_speed_up=costs.plain_ms / limit_ms,
            expected_speed_up=expected,
        )


@dataclass(frozen=True, slots=True)
class Roofline:
    """One measurement."""

    model: ModelRecord  # the target
    date: str
    commit: str | None
    machine: MachineRecord
    versions: Mapping[str, str]
    context: int  # tokens that a sequence has when its passes are measured
    repeats: int
    target: Limit
    plain_ms: float  # per token, plain decoding through this project's engine
    passes: tuple[PassCost, ...]  # of the target, one token first
    cache_bytes: int | None  # the largest cache of the machine
    draft: Limit | None = None
    draft_step_ms: float | None = None
    speculation: Speculation | None = None

    @property
    def over_limit(self) -> float:
        """Plain decoding's time over the limit."""
        return self.plain_ms / self.target.limit_ms

    @property
    def is_consistent(self) -> bool:
        """Whether nothing that was measured is faster than its limit, which only noise or a better kernel could do."""
        draft_limit_ms = self.draft.limit_ms if self.draft is not None else 0.0
        fastest_ms = min(self.plain_ms, *(cost.ms for cost in self.passes))
        is_draft_slower = self.draft_step_ms is None or self.draft_step_ms >= draft_limit_ms
        return is_draft_slower and fastest_ms >= self.target.limit_ms

    @property
    def fits_in_cache(self) -> bool | None:
        """Whether the largest cache could hold all that a token of the target reads; None if its size is not known."""
        return None if self.cache_bytes is None else self.target.read_bytes.total <= self.cache_bytes


def check_speculation(acceptance_length: float | None, num_draft_tokens: int | None) -> None:
    """Raises BenchError unless both are given or none, and so many draft tokens can have that acceptance length."""
    if acceptance_length is None and num_draft_tokens is None:
        return
    if acceptance_length is None or num_draft_tokens is None:
        raise BenchError(
            "a speculative speed-up needs a mean acceptance length and a number of draft tokens, and only one of them "
            "is given; give both or none"
        )
    if num_draft_tokens < 1 or not 1 <= acceptance_length <= num_draft_tokens + 1:
        raise BenchError(
            f"a mean acceptance length of {acceptance_length:g} with {num_draft_tokens} draft tokens cannot be: a "
            f"round commits 1 to {max(num_draft_tokens, 1) + 1} tokens; give the length that was measured"
        )


def document(roofline: Roofline) -> dict[str, Any]:
    """A JSON document: every measured figure, what follows from it, and the formulas."""
    draft = roofline.draft
    return {
        "schema": SCHEMA,
        **asdict(roofline),
        "target": _limit(roofline.target),
        "draft": None if draft is None else _limit(draft),
        "over_limit": roofline.over_limit,
        "is_consistent": roofline.is_consistent,
        "fits_in_cache": roofline.fits_in_cache,
        "formulas": dict(_FORMULAS),
    }


def _limit(limit: Limit) -> dict[str, Any]:
    read_bytes = asdict(limit.read_bytes) | {"total": limit.read_bytes.total}
    return asdict(limit) | {"read_bytes": read_bytes, "best": limit.best.name, "limit_ms": limit.limit_ms}
