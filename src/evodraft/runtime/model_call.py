"""One pass of a transformers model over slots: the arguments it wants, and what must be true while it runs.

The module itself is called, never its `forward` or its parts, so that the hooks of quantisers, accelerate and peft
fire. Nothing of the model outlives a pass: what must be switched for it is switched back, also after an exception.

This module does not know how many slots there are or how long they may get.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from evodraft.errors import CapacityError
from evodraft.runtime.base import DecoderOutput
from evodraft.runtime.masks import MaskBuilder
from evodraft.runtime.slotted import check_taps

if TYPE_CHECKING:
    from evodraft.runtime.support import ModelFacts
    from evodraft.runtime.view import SlotView


class ModelCall:
    """Calls a model on the slots of a view."""

    def __init__(self, model: torch.nn.Module, facts: ModelFacts) -> None:
        self._model = model
        self._facts = facts
        self._masks = MaskBuilder(facts.kinds, facts.device, facts.additive)

    def __call__(
        self,
        view: SlotView,
        token_ids: torch.Tensor,  # [batch, width]
        widths: Sequence[int],  # [batch]
        slots: Sequence[int],  # [batch]
        *,
        parents: Sequence[Sequence[int]] | None = None,  # [batch][widths[r]]
        want_logits: bool = True,
        taps: Sequence[int] = (),
    ) -> DecoderOutput:
        """Appends and scores; the lengths of the slots advance only if the model returned."""
        check_taps(taps, self._facts)
        step = view.slot_cache.plan(slots, widths, token_ids.shape[1], parents=parents)
        inputs = self._masks.build(step)
        # Not inference_mode: what a model keeps from a pass (rotary tables) must stay usable for the caller's training.
        with torch.no_grad(), evaluating(self._model), naming_exhausted_memory(), view.during(step):
            output = self._model(
                input_ids=token_ids.to(self._facts.device),
                attention_mask=inputs.attention_mask,
                position_ids=inputs.position_ids,
                past_key_values=view,
                use_cache=True,
                return_dict=True,
                output_hidden_states=bool(taps),
                **self._options(want_logits),
            )
        states = output.hidden_states if taps else ()
        return DecoderOutput(
            logits=output.logits if want_logits else None, taps={layer: states[layer] for layer in taps}
        )

    def reference(self, token_ids: torch.Tensor) -> torch.Tensor:  # [batch, width] -> [batch, width, vocab]
        """Logits of whole sequences the plain way: no cache, no mask, no positions of ours."""
        with torch.no_grad(), evaluating(self._model), naming_exhausted_memory():
            logits: torch.Tensor = self._model(
                input_ids=token_ids.to(self._facts.device), use_cache=False, return_dict=True
            ).logits
        return logits

    def _options(self, want_logits: bool) -> dict[str, Any]:
        # Nobody reads these logits: one row of the vocabulary instead of `width`.
        return {"logits_to_keep": 1} if not want_logits and self._facts.has_logits_to_keep else {}


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout is off inside; every module gets its own training flag back."""
    if not model.training:
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def naming_exhausted_memory() -> Iterator[None]:
    """Turns the device's error into CapacityError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"the device ran out of memory in a pass ({error}); lower kv_cache_gib or gpu_memory_utilization, "
            "max_batch or prefill_budget"
        ) from error
