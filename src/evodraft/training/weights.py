"""Take weights out of a model with tied embeddings and put them back.

Does not know: files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evodraft.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import LlamaForCausalLM

TIED_NAME = "lm_head.weight"


def unique_weights(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Detached copies of the weights, the tied output matrix left out."""
    return {name: value.detach().clone() for name, value in model.state_dict().items() if name != TIED_NAME}


def load_weights(model: LlamaForCausalLM, weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the weights of `model` in place. Raises `WeightsError` when names or shapes do not fit."""
    try:
        missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit the model: {error}") from error
    missing = [name for name in missing if name != TIED_NAME]
    if missing or unexpected:
        raise WeightsError(f"the weights lack {missing} and have {unexpected} too many; use the model they came from")
