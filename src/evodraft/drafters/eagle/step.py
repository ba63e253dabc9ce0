"""The arithmetic of a head, on the fastest code that can run its weights: native, packed or eager.

A head's layer is a Llama layer with a second input, so the steps of the runtime compute it. Does not know slots beyond
the pass it is given, target models, or which tokens are drafted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.changes import Changes
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import FamilyWeights, Matrix, llama_layer, read_rotary
from evodraft.runtime.fused import undisturbed
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.linear import native_linear
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.packing import LinearMaker, packed_linear, packing_problem, plain_linear

if TYPE_CHECKING:
    from evodraft.drafters.eagle.head import EagleHead
    from evodraft.runtime.cache import CachePass, SlotCache
    from evodraft.runtime.choose import RuntimeOptions


class _Computing(NamedTuple):
    step: NativeStep | EagerStep
    linear: LinearMaker  # how the same code computes products


class EagleStep:
    """Computes a head's passes from its own weights, which stay where they are and may be written to in place.

    Features are float32 between passes, float64 for a float64 head, whatever type the weights have.

    Args:
        head: holds the weights.
        computing: the code, made for `weights_of(head)`.

    >>> from evodraft.runtime.cache import SlotCache
    >>> from evodraft.runtime.choose import RuntimeOptions
    >>> from evodraft.testing.heads import tiny_head
    >>> from evodraft.testing.tiny import tiny_model
    >>> step = choose_step(tiny_head(tiny_model("llama")), RuntimeOptions("eager"))
    >>> cache = SlotCache(1, num_slots=1, max_length=8)
    >>> plan = cache.plan([0], [2], 2)
    >>> cache.begin(plan)
    >>> features = step.fuse(torch.zeros(2, 96))
    >>> step.layer(torch.zeros(1, 2, 32), features[None], cache, plan).shape
    torch.Size([1, 2, 32])
    """

    def __init__(self, head: EagleHead, computing: _Computing) -> None:
        self.inner, self.linear = computing
        self.name = self.inner.name
        self.dtype = head.fc.weight.dtype  # of the weights
        self.device = head.fc.weight.device
        self._features_dtype = torch.promote_types(self.dtype, torch.float32)
        self.fuse_weight = head.fc.weight.detach()  # [hidden, taps * target hidden]
        self._fuse_changes = Changes([self.fuse_weight])
        self._fuse = self.linear(self.fuse_weight, None)

    def refresh(self) -> bool:
        """Takes over what was written into the head's weights since the last call. True if there was anything."""
        is_new = self._fuse_changes.found()
        if is_new:
            self._fuse = self.linear(self.fuse_weight, None)
        return self.inner.refresh() or is_new

    def fuse(self, taps: torch.Tensor) -> torch.Tensor:  # [tokens, taps * target hidden] -> [tokens, hidden]
        """Features from the target's hidden states, the lowest tap first."""
        with undisturbed(self.device):
            return self._fuse(taps.to(self.dtype)).to(self._features_dtype)

    def layer(
        self,
        embedded: torch.Tensor,  # [batch, width, hidden], of token i + 1
        features: torch.Tensor,  # [batch, width, hidden], after token i
        cache: SlotCache,
        plan: CachePass,
        known: Sequence[int] | None = None,  # [batch]
    ) -> torch.Tensor:  # [batch, width, hidden], the features after token i + 1
        """Runs the layer and writes keys and values into the pass's columns; the caller begins and commits it.

        The first `known` columns of each row were computed by an earlier pass from the same start with the same inputs,
        and need not be computed again. They and columns past a row's width come back as noise.
        """
        with undisturbed(self.device):
            states, beside = (part.to(self._computed_dtype) for part in (features, embedded))
            if known is not None and isinstance(self.inner, NativeStep):
                output = self.inner.layers(states, cache, plan, 0, 1, (), beside, known)
            else:
                output = self.inner.layers(states, cache, plan, 0, 1, (), beside)
            return output.hidden.to(self._features_dtype)

    def norm(self, features: torch.Tensor) -> torch.Tensor:  # [tokens, hidden], both
        """The final norm, as the output matrix reads it."""
        with undisturbed(self.device):
            return self.inner.norm(features.to(self._computed_dtype)[None])[0]

    @property
    def _computed_dtype(self) -> torch.dtype:
        """What the code takes: the native one rounds where it must and not before."""
        return torch.float32 if isinstance(self.inner, NativeStep) else self.dtype


def choose_step(head: EagleHead, runtime: RuntimeOptions) -> EagleStep:
    """The fastest step for a head on its device and in its type, unless a slower one is asked for.

    Raises UnsupportedModelError for a head whose layer is no Llama layer.
    """
    weights = weights_of(head)
    first = _FIRST.get(runtime.runtime, "eager")
    names = list(_COMPUTING)[list(_COMPUTING).index(first) :]
    name = next(name for name in names if _PROBLEMS[name](weights.final_norm) is None)
    return EagleStep(head, _COMPUTING[name](weights))


def weights_of(head: EagleHead) -> FamilyWeights:
    """Views of a head's weights. Its embedding and output matrix are not among them: others hold these."""
    config, layer, norm = head.shape.config, head.midlayer, head.norm.weight.detach()
    if config.hidden_act != "silu":
        raise UnsupportedModelError(
            f"the head's activation is {config.hidden_act!r} and only 'silu' is computed; use another head"
        )
    attention = layer.self_attn
    # not the head's own rotary module: casting a head rounds its frequencies
    rotary = read_rotary(LlamaRotaryEmbedding(config).to(norm.device))
    own = replace(
        llama_layer(layer),
        attention_norm=layer.hidden_norm.weight.detach(),
        beside_norm=layer.input_layernorm.weight.detach(),
        is_residual_normed=layer.norm_before_residual,
    )
    return FamilyWeights(
        num_heads=attention.q_proj.out_features // attention.head_dim,
        num_kv_heads=attention.k_proj.out_features // attention.head_dim,
        head_dim=attention.head_dim,
        norm_eps=config.rms_norm_eps,
        scaling=attention.head_dim**-0.5,
        embedding=norm[None],  # stands for width, type and place only, as the next
        layers=(own,),
        final_norm=norm,
        head=Matrix(norm[None], None),
        rotary=rotary,
    )


def _native(weights: FamilyWeights) -> _Computing:
    library = load_library()
    return _Computing(NativeStep(weights, library), partial(native_linear, library))


def _packed(weights: FamilyWeights) -> _Computing:
    return _Computing(EagerStep(weights, packed_linear, name="packed"), packed_linear)


def _eager(weights: FamilyWeights) -> _Computing:
    return _Computing(EagerStep(weights), plain_linear)


def _no_problem(like: torch.Tensor) -> None:
    """Torch's own operators take everything."""


_COMPUTING: Final[Mapping[str, Callable[[FamilyWeights], _Computing]]] = {
    "native": _native,
    "packed": _packed,
    "eager": _eager,
}
"""In order of preference."""
_PROBLEMS: Final[Mapping[str, Callable[[torch.Tensor], str | None]]] = {
    "native": native_problem,
    "packed": packing_problem,
    "eager": _no_problem,
}
_FIRST: Final[Mapping[str, str]] = {"auto": "native", "native": "native", "packed": "packed"}
"""Runtime asked for -> where to begin; all others mean torch's own operators."""
