"""The Llama family as a Decoder, computed from a model's weights instead of by its modules.

The books are those of the reference (hf.py); the arithmetic is a Step's (native, packed or eager). Layers can be run
in ranges, so that a draft may stop early and the rest be computed later.

This module does not know requests, sampling, drafts or text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from evodraft.runtime.base import DecoderOutput
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.changes import Standing
from evodraft.runtime.model_call import naming_exhausted_memory
from evodraft.runtime.slotted import SlottedDecoder, check_taps

if TYPE_CHECKING:
    from evodraft.runtime.step import LayersOutput, Step
    from evodraft.runtime.support import ModelFacts


class FusedDecoder(SlottedDecoder):
    """Decodes with a Step; `evodraft.runtime.choose` finds the best one for a model and checks it.

    Args:
        step: the arithmetic, which holds the weights.
        facts: of the model that the weights belong to.
        num_slots: sequences at once.
        max_length: tokens per sequence.
        cache_tokens: bounds what the cache takes ahead of need, rows x columns; None = num_slots x max_length.
        standing: asked at the start of every sequence whether the model is still the one that the step computes.

    >>> from evodraft.runtime.eager_step import EagerStep
    >>> from evodraft.runtime.family import read_family
    >>> from evodraft.runtime.support import ModelFacts
    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("llama", vocab_size=32)
    >>> facts = ModelFacts.of(model)
    >>> decoder = FusedDecoder(EagerStep(read_family(model, facts)), facts, num_slots=2, max_length=16)
    >>> decoder.forward(torch.tensor([[1, 2, 3], [4, 5, 0]]), widths=[3, 2], slots=[0, 1]).logits.shape
    torch.Size([2, 3, 32])
    """

    supports_layers = True

    def __init__(
        self,
        step: Step,
        facts: ModelFacts,
        num_slots: int,
        max_length: int,
        *,
        cache_tokens: int | None = None,
        standing: Standing | None = None,
    ) -> None:
        super().__init__(facts, SlotCache(facts.num_layers, num_slots, max_length, budget_tokens=cache_tokens))
        self.step = step
        self._standing = standing

    def forward(
        self,
        token_ids: torch.Tensor,  # [batch, width]
        widths: Sequence[int],  # [batch]
        slots: Sequence[int],  # [batch]
        *,
        parents: Sequence[Sequence[int]] | None = None,  # [batch][widths[r]]
        want_logits: bool = True,
        taps: Sequence[int] = (),
    ) -> DecoderOutput:
        """Appends tokens and scores them; if a pass fails, all lengths are as before."""
        check_taps(taps, self._facts)
        with undisturbed(self._facts.device):
            embedded = self.step.embed(token_ids)
            output = self._run(embedded, widths, slots, range(self.num_layers), parents, taps)
            tapped = dict(output.taps)
            if 0 in taps:
                tapped[0] = embedded
            logits = None
            if want_logits or self.num_layers in taps:
                normed = self.step.norm(output.hidden)
                tapped |= {self.num_layers: normed} if self.num_layers in taps else {}
                logits = self.step.head(normed) if want_logits else None
            return DecoderOutput(logits, {layer: hidden.to(self._facts.dtype) for layer, hidden in tapped.items()})

    # ---- in parts ------------------------------------------------------------------------------------------------

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:  # [batch, width] -> [batch, width, hidden]
        """What the first layer reads."""
        with undisturbed(self._facts.device):
            return self.step.embed(token_ids)

    def layers(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden], before layer `layers.start`
        widths: Sequence[int],  # [batch]
        slots: Sequence[int],  # [batch]
        layers: range,
    ) -> torch.Tensor:  # [batch, width, hidden]
        """Appends tokens to a range of layers, at the length that these layers have. Does not write into `hidden`."""
        with undisturbed(self._facts.device):
            return self._run(hidden, widths, slots, layers, None, ()).hidden

    def head(self, hidden: torch.Tensor) -> torch.Tensor:  # [batch, width, hidden] -> [batch, width, vocab]
        """Logits of what came behind any layer."""
        with undisturbed(self._facts.device):
            return self.step.head(self.step.norm(hidden))

    def _run(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
        widths: Sequence[int],
        slots: Sequence[int],
        layers: range,
        parents: Sequence[Sequence[int]] | None,
        taps: Sequence[int],
    ) -> LayersOutput:
        plan = self._cache.plan(slots, widths, hidden.shape[1], parents=parents, layers=layers)
        if 0 in plan.starts:
            self._look_at_weights()
        self._cache.begin(plan)
        inner = [layer for layer in taps if 0 < layer < self.num_layers]
        with naming_exhausted_memory():
            output = self.step.layers(hidden, self._cache, plan, layers.start, layers.stop, inner)
        self._cache.commit(plan)
        return output

    def _look_at_weights(self) -> None:
        """At the start of a sequence: what was written into them is taken over, what else was changed is an error."""
        if self._standing is not None:
            self._standing.check()
        self.step.refresh()


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Without gradients, and without the caller's autocast: kernels of our own must get the types they expect."""
    is_casting = torch.is_autocast_enabled(device.type)
    with torch.no_grad(), torch.autocast(device.type, enabled=False) if is_casting else nullcontext():
        yield
