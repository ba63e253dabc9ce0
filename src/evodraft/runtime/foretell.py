"""Which runtime will decode a model that is not loaded: asked by the same questions in the same order as in choose.py.

What only the weights can tell waits until they are there: the comparison with the model's own modules, and whether
numerics are invariant. This module computes nothing with a model, and compiles nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.choose import (
    COPIED_BYTES,
    MODULES_NUMERICS,
    TRANSFORMERS,
    NumericsReport,
    RuntimeOptions,
    RuntimeReport,
    When,
    asked_numerics,
    check_step,
    first_runtime,
)
from evodraft.runtime.family import FamilyWeights, read_family
from evodraft.runtime.native.build import library_state
from evodraft.runtime.native.problem import native_outlook

if TYPE_CHECKING:
    from evodraft.runtime.support import ModelFacts

UNTRIED: Final = NumericsReport("untried", "passes of several widths, alone and in a batch, are compared at start")
REQUIRED: Final = NumericsReport(
    "invariant", "you asked for it: what computes other bits in other passes at start is passed over"
)
_COMPARED: Final = "compared with the transformers module at start"
_OUTLOOKS: Final[Mapping[str, Callable[[torch.dtype], tuple[str, ...]]]] = {"native": native_outlook}


@dataclass(frozen=True, slots=True)
class Foretold:
    """What would be chosen, and what else is known of it before."""

    report: RuntimeReport
    outlook: tuple[str, ...]
    copied_bytes: int  # of weights


def foretell_runtime(
    model: torch.nn.Module,
    facts: ModelFacts,
    device: torch.device,
    options: RuntimeOptions | None = None,
    *,
    pending_bytes: int = 0,
) -> Foretold:
    """What `choose_runtime` will say of a model that lies on the meta device now and will be loaded to `device`.

    Args:
        model: as its config describes it, in the dtype in which it will be loaded. Not changed.
        facts: of it.
        device: need not be here.
        options: what will be wanted.
        pending_bytes: of memory that is free now and will be taken first, the model's own weights included.

    Raises UnsupportedModelError if there is no runtime.

    >>> from evodraft.runtime.support import ModelFacts
    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("gemma").to("meta")
    >>> foretell_runtime(model, ModelFacts.of(model), torch.device("cpu")).report.name
    'transformers'
    """
    options = options or RuntimeOptions()
    when = When(pending_bytes, library_state)

    def attempt(name: str) -> tuple[int, NumericsReport]:
        asked = asked_numerics(options.numerics)
        if name == TRANSFORMERS:
            return 0, asked or MODULES_NUMERICS
        weights = _weights_on(device, model, facts)
        check_step(name, weights, when)
        return COPIED_BYTES[name](weights), asked or (REQUIRED if options.numerics == "invariant" else UNTRIED)

    copied_bytes, report = first_runtime(options, attempt)
    return Foretold(report, tuple(_outlook(report.name, facts.dtype)), copied_bytes)


def _outlook(name: str, dtype: torch.dtype) -> Iterator[str]:
    if name in _OUTLOOKS:
        yield from _OUTLOOKS[name](dtype)
    if name != TRANSFORMERS:
        yield _COMPARED


def _weights_on(device: torch.device, model: torch.nn.Module, facts: ModelFacts) -> FamilyWeights:
    """The shapes of the weights, as if they lay on `device`. Raises UnsupportedModelError, as `read_family` does."""
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        raise UnsupportedModelError("its weights are quantised, and only what replaces its linear layers can read them")
    weights = read_family(_without_parameters(model), facts)
    hidden = weights.hidden_size
    with FakeTensorMode():  # no memory is taken, and the device need not be here
        embedding = torch.empty(weights.vocab_size, hidden, dtype=weights.dtype, device=device)
    return replace(weights, embedding=embedding)


def _without_parameters(model: torch.nn.Module) -> Any:
    """A copy whose parameters are buffers: where parameters lie and what kind they are is not known yet."""
    bare = copy.deepcopy(model)
    for module in bare.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return bare
