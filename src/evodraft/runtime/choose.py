"""Which runtime decodes a model here: the first that can, and that says what the model says.

Every runtime that computes by itself is compared with the model's own modules before it is taken. Nothing is decided
in silence: what was passed over is reported with its reason.

This module does not know how any of them computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from evodraft.errors import UnknownOptionError, UnsupportedModelError
from evodraft.machine import free_memory
from evodraft.runtime.check import CHECKED_LENGTH, check_decoder, check_model
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import FamilyWeights, read_family
from evodraft.runtime.fused import FusedDecoder
from evodraft.runtime.graphs import GraphedStep, cuda_recorder
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.invariance import is_invariant
from evodraft.runtime.native.build import build_library
from evodraft.runtime.native.library import Library
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.packing import packed_linear, packing_problem
from evodraft.runtime.support import ModelFacts, resolve_max_length

if TYPE_CHECKING:
    from evodraft.runtime.base import Decoder
    from evodraft.runtime.step import Step

TRANSFORMERS: Final = "transformers"
NUMERICS: Final = ("auto", "fast", "invariant")
_MOST_OF_FREE_MEMORY: Final = 0.5  # that copies of weights may take


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What is wanted of a runtime. Raises UnknownOptionError for words that mean nothing."""

    runtime: str = "auto"  # or a name of RUNTIMES
    numerics: str = "auto"  # invariant: the same bits at any width and in any company, or an error; fast: not tried

    def __post_init__(self) -> None:
        names = ("auto", *RUNTIMES)
        if self.runtime not in names:
            raise UnknownOptionError("runtime", self.runtime, names)
        if self.numerics not in NUMERICS:
            raise UnknownOptionError("numerics mode", self.numerics, NUMERICS)


class PassedOver(NamedTuple):
    """A runtime that was not taken."""

    name: str
    reason: str


class NumericsReport(NamedTuple):
    """Whether the width of a pass and its other rows can change what it computes (X13)."""

    name: str  # "invariant" or "fast"
    reason: str


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """What was chosen, and why not something else."""

    name: str
    about: str
    passed_over: tuple[PassedOver, ...]
    numerics: NumericsReport


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to decode one model that was tried on it; `report` says which, and why."""

    model: torch.nn.Module
    facts: ModelFacts
    step: Step | None  # None = the model's own modules
    report: RuntimeReport

    def decoder(self, num_slots: int, max_length: int | None = None, *, cache_tokens: int | None = None) -> Decoder:
        """A decoder with empty slots.

        Args:
            num_slots: sequences at once.
            max_length: tokens per sequence; None = the model's context.
            cache_tokens: bounds what the cache takes ahead of need, rows x columns; None = num_slots x max_length.

        Raises CapacityError for sizes that cannot be.
        """
        if self.step is None:
            return HfDecoder(self.model, num_slots, max_length, cache_tokens=cache_tokens, facts=self.facts)
        length = resolve_max_length(self.facts, max_length, num_slots, None)
        return FusedDecoder(self.step, self.facts, num_slots, length, cache_tokens=cache_tokens)


def choose_runtime(model: torch.nn.Module, options: RuntimeOptions | None = None) -> Runtime:
    """The first runtime that decodes a transformers model as wanted. The model stays the caller's, unwritten.

    Raises UnsupportedModelError if there is none.

    >>> from evodraft.testing.tiny import tiny_model
    >>> report = choose_runtime(tiny_model("gemma")).report
    >>> report.name, report.passed_over[0].name
    ('transformers', 'native')
    """
    options = options or RuntimeOptions()
    facts = check_model(model, ModelFacts.of(model))
    passed_over: list[PassedOver] = []
    for name in RUNTIMES if options.runtime == "auto" else (options.runtime,):
        try:
            step = _checked_step(_STEPS[name], model, facts) if name in _STEPS else None
            numerics = _numerics(step, facts, options.numerics)
        except UnsupportedModelError as error:
            passed_over.append(PassedOver(name, str(error)))
        else:
            return Runtime(model, facts, step, RuntimeReport(name, RUNTIMES[name], tuple(passed_over), numerics))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over)
    raise UnsupportedModelError(
        f"nothing decodes the model with runtime={options.runtime!r}, numerics={options.numerics!r} here ({reasons}); "
        "ask for less"
    )


def _checked_step(make: Callable[[FamilyWeights], Step], model: torch.nn.Module, facts: ModelFacts) -> Step:
    """A step that was seen to say what the model says."""
    step = make(read_family(model, facts))
    check_decoder(FusedDecoder(step, facts, num_slots=2, max_length=CHECKED_LENGTH), model, facts)
    return step


def _numerics(step: Step | None, facts: ModelFacts, wanted: str) -> NumericsReport:
    """Raises UnsupportedModelError if "invariant" is wanted and not to be had."""
    report = NumericsReport("fast", "you asked for it") if wanted == "fast" else _tried_numerics(step, facts)
    if wanted == "invariant" and report.name != wanted:
        raise UnsupportedModelError(f"its numerics are not invariant: {report.reason}")
    return report


def _tried_numerics(step: Step | None, facts: ModelFacts) -> NumericsReport:
    if step is None:
        return NumericsReport("fast", "transformers' modules run kernels that depend on the width of a pass")
    if is_invariant(step, facts):
        return NumericsReport(
            "invariant", "passes of widths 1 to 24, alone and in a batch, computed the same bits at start"
        )
    return NumericsReport("fast", "passes of other widths or with other rows computed other bits at start")


def _native(weights: FamilyWeights) -> Step:
    _refuse(native_problem(weights.embedding))
    return NativeStep(weights, Library(build_library()))


def _packed(weights: FamilyWeights) -> Step:
    _refuse(packing_problem(weights.embedding))
    _refuse(_memory_problem(weights, weights.matrix_bytes))
    return EagerStep(weights, packed_linear, name="packed")


def _eager(weights: FamilyWeights) -> Step:
    _refuse(_memory_problem(weights, weights.joinable_bytes))
    step = EagerStep(weights)
    return GraphedStep(step, cuda_recorder(weights.device)) if weights.device.type == "cuda" else step


def _memory_problem(weights: FamilyWeights, num_bytes: int) -> str | None:
    """Why copies of weights do not fit; None if they do."""
    is_cuda = weights.device.type == "cuda"
    free = torch.cuda.mem_get_info(weights.device)[0] if is_cuda else free_memory()
    if free is None or num_bytes <= _MOST_OF_FREE_MEMORY * free:
        return None
    return f"it copies {num_bytes / 2**30:.1f} GiB of weights and {free / 2**30:.1f} GiB are free"


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise UnsupportedModelError(problem)


_STEPS: Final[Mapping[str, Callable[[FamilyWeights], Step]]] = {"native": _native, "packed": _packed, "eager": _eager}
RUNTIMES: Final[Mapping[str, str]] = {
    "native": "the Llama family in C++ compiled for this machine, on the model's own weights",
    "packed": "the Llama family in torch operators, weights copied into oneDNN's order",
    "eager": "the Llama family in torch operators, recorded as CUDA graphs on a GPU",
    TRANSFORMERS: "the transformers module as it is, so that every hook fires",
}
"""In order of preference."""
