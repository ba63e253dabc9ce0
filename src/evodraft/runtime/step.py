"""The Step protocol: the arithmetic of a Llama-like model, cut where a decoder needs to look in.

A decoder keeps the books (slots, plans, commits); a step computes. Does not know slots beyond the pass it is given,
and holds no state between passes but weights and what it derives from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from evodraft.runtime.cache import CachePass, SlotCache


@dataclass(frozen=True, slots=True)
class LayersOutput:
    """What a range of layers returns. Columns past a row's width are noise."""

    hidden: torch.Tensor  # [batch, width, hidden], after the last layer of the range; no final norm
    taps: Mapping[int, torch.Tensor] = field(default_factory=dict)  # layer -> [batch, width, hidden]


class Step(Protocol):
    """How the layers of one model are computed on one device.

    The caller declares a pass with `SlotCache.begin` before `layers` and ends it with `commit`. What comes back are
    tensors of the caller's own: a later pass does not change them.
    """

    name: str
    """Which implementation this is, for reports: "native", "packed", "eager"."""

    def refresh(self) -> bool:
        """Takes over what was written into the model's weights in place since the last call. True if there was
        anything."""
        ...

    def embed(
        self,
        token_ids: torch.Tensor,  # [batch, width]
    ) -> torch.Tensor:  # [batch, width, hidden]
        """The input of layer 0."""
        ...

    def layers(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden], before layer `first`
        cache: SlotCache,
        step: CachePass,
        first: int,
        last: int,
        taps: Collection[int],
    ) -> LayersOutput:
        """Runs the layers `first` .. `last - 1` and writes their keys and values into the pass's columns.

        Tap i (first + 1 .. last) is the hidden state after layer i - 1; the final norm is not applied to it. Others are
        left out.
        """
        ...

    def norm(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
    ) -> torch.Tensor:  # [batch, width, hidden]
        """The final norm."""
        ...

    def head(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden], after the final norm
    ) -> torch.Tensor:  # [batch, width, vocab]
        """Logits."""
        ...
