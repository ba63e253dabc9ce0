"""A target with random weights in a real shape, and a draft of one layer. Does not measure.

The draft is one layer of the target's width between the target's own embedding and head: about what an EAGLE head with
a full vocabulary costs. What it says is not worth accepting; acceptance is forced.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from evodraft.assemble import LoadedTarget
from evodraft.bench.roofline.reads import read_weights
from evodraft.bench.synthetic.shapes import Shape, shape_of
from evodraft.errors import BenchError
from evodraft.inspection.machine import read_machine
from evodraft.runtime.load import empty_model
from evodraft.runtime.placement import chosen_device, chosen_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FREE_SHARE: Final = 0.5  # of the free memory, where no limit is given
_BLOCK: Final = 1_048_573  # random numbers that are repeated; a prime, so that rows of a matrix differ


class Recipe(NamedTuple):
    """All that random weights depend on."""

    shape: str  # a name of SHAPES
    num_layers: int
    dtype: torch.dtype
    seed: int

    @property
    def note(self) -> str:
        """Why no figure made with them is one of a real model."""
        num_full = shape_of(self.shape).num_layers
        cut = "" if self.num_layers == num_full else f", {self.num_layers} of {num_full} layers"
        return f"random weights in the shape of {self.shape}{cut}"

    def model(self, device: torch.device) -> PreTrainedModel:
        """The model, made on `device`."""
        return _random_model(shape_of(self.shape).config(self.num_layers), self.dtype, device, self.seed)


class RandomPair(NamedTuple):
    """Target and draft, and what must be said with every figure of theirs."""

    target: LoadedTarget  # without a tokenizer
    draft: PreTrainedModel | None
    note: str  # for `ModelRecord.synthetic` and `Profile.synthetic`
    num_layers: int
    num_full_layers: int  # of the real shape
    cost_ratio: float  # bytes that a token reads of the draft's weights / of the target's


def random_pair(
    shape: str,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    max_bytes: int | None = None,
    seed: int = 0,
    *,
    num_draft_layers: int = 1,
) -> RandomPair:
    """Random weights in the shape of a table entry, as many of its layers as fit.

    Args:
        shape: a name of SHAPES.
        dtype: "auto" = bfloat16, in which both real models are published.
        device: where the weights are made.
        max_bytes: of weights, target and draft together; None = half of the memory that is free.
        seed: of the weights.
        num_draft_layers: of the draft, which shares the target's embedding and head; 0 = no draft.

    Raises UnknownOptionError for another shape, BenchError if not even one layer fits.

    >>> pair = random_pair("tiny", "float32", "cpu", max_bytes=130_000)
    >>> pair.note, pair.num_layers
    ('random weights in the shape of tiny, 2 of 4 layers', 2)
    """
    recipe = fitting_recipe(shape, dtype, device, max_bytes, seed, num_draft_layers=num_draft_layers)
    return pair_of(recipe, recipe.model(chosen_device(device)), num_draft_layers)


def fitting_recipe(
    shape: str,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    max_bytes: int | None = None,
    seed: int = 0,
    *,
    num_draft_layers: int = 1,
    num_copies: int = 1,
) -> Recipe:
    """What `random_pair` makes; with more copies, of as many layers as fit that often."""
    place, chosen = chosen_device(device), chosen_dtype(dtype)
    kind = chosen if isinstance(chosen, torch.dtype) else torch.bfloat16
    wanted = shape_of(shape)
    limit = int(read_machine(place).free_bytes * _FREE_SHARE / num_copies) if max_bytes is None else max_bytes
    return Recipe(shape, _num_fitting(wanted, kind, limit, num_draft_layers), kind, seed)


def pair_of(recipe: Recipe, model: PreTrainedModel, num_draft_layers: int = 1) -> RandomPair:
    """A pair around a model of that recipe."""
    draft = _draft(model, num_draft_layers) if num_draft_layers else None
    return RandomPair(
        target=LoadedTarget(model, None),
        draft=draft,
        note=recipe.note,
        num_layers=recipe.num_layers,
        num_full_layers=shape_of(recipe.shape).num_layers,
        cost_ratio=0.0 if draft is None else read_weights(draft).count().total / read_weights(model).count().total,
    )


def shallower(model: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """The first layers of a model as a model of its own that shares all weights with it."""
    shared: dict[int, Any] = {id(weight): weight for weight in model.parameters()}
    cut: PreTrainedModel = copy.deepcopy(model, shared)
    base: Any = cut.get_decoder()
    base.layers = base.layers[:num_layers]
    sizes = {"num_hidden_layers": num_layers}
    kinds = getattr(cut.config, "layer_types", None)
    for name, value in (sizes if kinds is None else sizes | {"layer_types": kinds[:num_layers]}).items():
        setattr(cut.config, name, value)
    return cut


def _draft(model: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """Layers of its own: read from other memory than the target's, as a real draft's are."""
    draft = shallower(model, min(num_layers, model.config.num_hidden_layers))
    base: Any = draft.get_decoder()
    base.layers = copy.deepcopy(base.layers)
    return draft


def _num_fitting(shape: Shape, dtype: torch.dtype, limit: int, num_draft_layers: int) -> int:
    one, two = (_weight_bytes(shape.config(depth), dtype) for depth in (1, 2))
    layer, rest = two - one, 2 * one - two
    fits = (limit - rest) // layer - num_draft_layers
    if fits < 1:
        raise BenchError(
            f"{limit / 2**30:.3g} GiB do not hold one layer of this shape with its embedding and a draft, which need "
            f"{(rest + layer * (1 + num_draft_layers)) / 2**30:.3g} GiB; raise max_bytes or choose a smaller shape"
        )
    return min(shape.num_layers, fits)


def _weight_bytes(config: Any, dtype: torch.dtype) -> int:
    return sum(weight.nbytes for weight in empty_model(config, dtype).parameters())


def _random_model(config: Any, dtype: torch.dtype, device: torch.device, seed: int) -> PreTrainedModel:
    """A model whose weights are made at the speed of copying: drawing 8 billion numbers takes minutes."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    block = torch.rand(_BLOCK, generator=torch.Generator().manual_seed(seed)).mul_(2).sub_(1)
    block = block.mul_(3**0.5).to(device)  # variance 1
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                _fill(weight, block)
    model.eval()
    return model


def _fill(weight: torch.Tensor, block: torch.Tensor) -> None:
    """Unit gain, so that signals neither fade nor explode. Norms stay ones."""
    scaled = (block * weight.shape[-1] ** -0.5).to(weight.dtype)
    flat = weight.view(-1)
    for start in range(0, flat.numel(), _BLOCK):
        piece = flat[start : start + _BLOCK]
        piece.copy_(scaled[: piece.numel()])
