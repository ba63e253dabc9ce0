"""Which runtime decodes a model here: the first that can, and that says what the model says.

Every runtime that computes by itself is compared with the model's own modules before it is taken. Nothing is decided
in silence: what was passed over is reported with its reason.

This module does not know how any of them computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import torch

from evodraft.errors import UnknownOptionError, UnsupportedModelError
from evodraft.machine import free_memory
from evodraft.runtime.changes import Standing
from evodraft.runtime.check import CHECKED_LENGTH, check_decoder, check_model
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import FamilyWeights, read_family
from evodraft.runtime.fused import FusedDecoder
from evodraft.runtime.graphs import GraphedStep, cuda_recorder
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.invariance import is_invariant
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.packing import packed_linear, packing_problem
from evodraft.runtime.support import ModelFacts, resolve_max_length

if TYPE_CHECKING:
    from evodraft.runtime.family import Matrix
    from evodraft.runtime.step import Step

TRANSFORMERS: Final = "transformers"
NUMERICS: Final = ("auto", "fast", "invariant")
_MOST_OF_FREE_MEMORY: Final = 0.5  # that copies of weights may take

Made = TypeVar("Made")


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

    name: str  # "invariant" or "fast"; "untried" of a model that is not loaded
    reason: str


MODULES_NUMERICS: Final = NumericsReport("fast", "transformers' modules run kernels that depend on the width of a pass")


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
    copied_bytes: int = 0  # of weights that the step holds beside the model's own

    def decoder(
        self, num_slots: int, max_length: int | None = None, *, cache_tokens: int | None = None
    ) -> HfDecoder | FusedDecoder:
        """A decoder with empty slots, which knows this runtime.

        Args:
            num_slots: sequences at once.
            max_length: tokens per sequence; None = the model's context.
            cache_tokens: bounds what the cache takes ahead of need, rows x columns; None = num_slots x max_length.

        Raises CapacityError for sizes that cannot be.
        """
        decoder = self._decoder(num_slots, max_length, cache_tokens)
        decoder.runtime, decoder.model = self, self.model
        return decoder

    def _decoder(self, num_slots: int, max_length: int | None, cache_tokens: int | None) -> HfDecoder | FusedDecoder:
        if self.step is None:
            return HfDecoder(self.model, num_slots, max_length, cache_tokens=cache_tokens, facts=self.facts)
        length = resolve_max_length(self.facts, max_length, num_slots, None)
        standing = Standing(self.model)
        return FusedDecoder(self.step, self.facts, num_slots, length, cache_tokens=cache_tokens, standing=standing)


class When(NamedTuple):
    """Under what it is asked whether a step could be made: now, or before the model is there."""

    pending_bytes: int = 0  # that will be taken first
    build: Callable[[], object] | None = None  # in place of compiling; raises BuildError


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

    def attempt(name: str) -> tuple[_Made, NumericsReport]:
        made = _checked_step(name, model, facts) if name in _STEPS else _Made(None, 0)
        return made, _numerics(made.step, facts, options.numerics)

    made, report = first_runtime(options, attempt)
    return Runtime(model, facts, made.step, report, made.copied_bytes)


def runtime_of(decoder: object) -> Runtime | None:
    """What made a decoder; None for one that somebody built without choosing."""
    runtime: Runtime | None = getattr(decoder, "runtime", None)
    return runtime


def report_of(decoder: object) -> RuntimeReport | None:
    """Why a decoder is what it is; None for one that somebody built without choosing."""
    runtime = runtime_of(decoder)
    return None if runtime is None else runtime.report


def first_runtime(
    options: RuntimeOptions, attempt: Callable[[str], tuple[Made, NumericsReport]]
) -> tuple[Made, RuntimeReport]:
    """The first name that `attempt` does not refuse, what it returned, and why the names before were refused.

    Raises UnsupportedModelError if all were.
    """
    passed_over: list[PassedOver] = []
    for name in RUNTIMES if options.runtime == "auto" else (options.runtime,):
        try:
            made, numerics = attempt(name)
            if options.numerics == "invariant" and numerics.name == "fast":
                raise UnsupportedModelError(f"its numerics are not invariant: {numerics.reason}")
        except UnsupportedModelError as error:
            passed_over.append(PassedOver(name, str(error)))
        else:
            return made, RuntimeReport(name, RUNTIMES[name], tuple(passed_over), numerics)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over)
    raise UnsupportedModelError(
        f"nothing decodes the model with runtime={options.runtime!r}, numerics={options.numerics!r} here ({reasons}); "
        "ask for less"
    )


def asked_numerics(wanted: str) -> NumericsReport | None:
    """What needs no trial, because somebody asked for it."""
    return NumericsReport("fast", "you asked for it") if wanted == "fast" else None


def check_step(name: str, weights: FamilyWeights, when: When) -> None:
    """Raises UnsupportedModelError, with the reason, if no step of this name could be made of the weights."""
    for problem in _PROBLEMS[name]:
        found = problem(weights, when)
        if found is not None:
            raise UnsupportedModelError(found)


# ---- one step ------------------------------------------------------------------------------------------------


class _Made(NamedTuple):
    step: Step | None
    copied_bytes: int


def _checked_step(name: str, model: torch.nn.Module, facts: ModelFacts) -> _Made:
    """A step that was seen to say what the model says."""
    weights = read_family(model, facts)
    check_step(name, weights, When())
    step = _STEPS[name](weights)
    check_decoder(FusedDecoder(step, facts, num_slots=2, max_length=CHECKED_LENGTH), model, facts)
    return _Made(step, COPIED_BYTES[name](weights))


def _numerics(step: Step | None, facts: ModelFacts, wanted: str) -> NumericsReport:
    asked = asked_numerics(wanted)
    if asked is not None:
        return asked
    if step is None:
        return MODULES_NUMERICS
    if is_invariant(step, facts):
        return NumericsReport(
            "invariant", "passes of widths 1 to 24, alone and in a batch, computed the same bits at start"
        )
    return NumericsReport("fast", "passes of other widths or with other rows computed other bits at start")


def _native(weights: FamilyWeights) -> Step:
    return NativeStep(weights, load_library())


def _packed(weights: FamilyWeights) -> Step:
    return EagerStep(weights, packed_linear, name="packed")


def _eager(weights: FamilyWeights) -> Step:
    step = EagerStep(weights)
    return GraphedStep(step, cuda_recorder(weights.device)) if weights.device.type == "cuda" else step


def _native_problem(weights: FamilyWeights, when: When) -> str | None:
    return native_problem(weights.embedding, when.build)


def _packing_problem(weights: FamilyWeights, when: When) -> str | None:
    return packing_problem(weights.embedding)


def _packed_memory_problem(weights: FamilyWeights, when: When) -> str | None:
    return _memory_problem(weights, weights.matrix_bytes, when)


def _eager_memory_problem(weights: FamilyWeights, when: When) -> str | None:
    return _memory_problem(weights, weights.joinable_bytes, when)


def _memory_problem(weights: FamilyWeights, num_bytes: int, when: When) -> str | None:
    """Why copies of weights do not fit; None if they do."""
    is_cuda = weights.device.type == "cuda"
    found = torch.cuda.mem_get_info(weights.device)[0] if is_cuda else free_memory()
    if found is None:
        return None
    free = max(0, found - when.pending_bytes)
    if num_bytes <= _MOST_OF_FREE_MEMORY * free:
        return None
    return f"it copies {num_bytes / 2**30:.1f} GiB of weights and {free / 2**30:.1f} GiB are free"


def _joined_bytes(weights: FamilyWeights) -> int:
    """What the eager step copies: matrices that share their input and are no neighbours in memory."""
    groups = [
        group for layer in weights.layers for group in ((layer.query, layer.key, layer.value), (layer.gate, layer.up))
    ]
    return sum(matrix.weight.nbytes for group in groups if not _are_neighbours(group) for matrix in group)


def _are_neighbours(group: tuple[Matrix, ...]) -> bool:
    pairs = pairwise(matrix.weight for matrix in group)
    return all(  # by offsets and not by addresses, which weights that are not loaded lack
        one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.storage_offset() + one.numel() == other.storage_offset()
        for one, other in pairs
    )


_STEPS: Final[Mapping[str, Callable[[FamilyWeights], Step]]] = {"native": _native, "packed": _packed, "eager": _eager}
_PROBLEMS: Final[Mapping[str, tuple[Callable[[FamilyWeights, When], str | None], ...]]] = {
    "native": (_native_problem,),
    "packed": (_packing_problem, _packed_memory_problem),
    "eager": (_eager_memory_problem,),
}
COPIED_BYTES: Final[Mapping[str, Callable[[FamilyWeights], int]]] = {
    "native": lambda weights: 0,
    "packed": lambda weights: weights.matrix_bytes,
    "eager": _joined_bytes,
}
"""What a step holds beside the model's own weights, whether these are loaded or only described."""

RUNTIMES: Final[Mapping[str, str]] = {
    "native": "the Llama family in C++ compiled for this machine, on the model's own weights",
    "packed": "the Llama family in torch operators, weights copied into oneDNN's order",
    "eager": "the Llama family in torch operators, recorded as CUDA graphs on a GPU",
    TRANSFORMERS: "the transformers module as it is, so that every hook fires",
}
"""In order of preference."""
