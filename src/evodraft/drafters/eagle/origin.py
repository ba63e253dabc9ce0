"""For which target a head was trained: sizes, and a few numbers of its embedding.

The numbers tell targets of one shape apart and survive another dtype. Does not know heads or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from evodraft.runtime.support import innermost

_NUM_SAMPLES: Final = 64
_TOLERANCE: Final = 0.05  # of the largest sample: rounding stays far below, another model far above


@dataclass(frozen=True, slots=True)
class Origin:
    """What is recorded of a target."""

    hidden_size: int
    num_layers: int
    vocab_size: int  # rows of its embedding
    sample: tuple[float, ...] = ()  # numbers of its embedding, evenly spaced; none where it is quantised

    @classmethod
    def of(cls, target: torch.nn.Module) -> Origin:
        """Reads it off.

        >>> from evodraft.testing.tiny import tiny_model
        >>> Origin.of(tiny_model("llama", vocab_size=50)).vocab_size
        50
        """
        base = innermost(target)
        weight: torch.Tensor = base.get_input_embeddings().weight
        return cls(
            hidden_size=weight.shape[1],
            num_layers=base.config.get_text_config(decoder=True).num_hidden_layers,
            vocab_size=weight.shape[0],
            sample=_sample(weight),
        )

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Origin:
        """From JSON. Raises KeyError, TypeError or ValueError for what is no record."""
        hidden_size, num_layers, vocab_size = (
            int(record[name]) for name in ("hidden_size", "num_layers", "vocab_size")
        )
        return cls(hidden_size, num_layers, vocab_size, tuple(float(number) for number in record.get("sample", ())))

    def is_other_model(self, other: Origin) -> bool:
        """Whether the samples say so; they say nothing where one of them is missing."""
        if not self.sample or not other.sample:
            return False
        ours, theirs = torch.tensor(self.sample), torch.tensor(other.sample)
        return ours.shape != theirs.shape or bool((ours - theirs).abs().max() > _TOLERANCE * ours.abs().max())


def _sample(weight: torch.Tensor) -> tuple[float, ...]:  # [vocab, hidden]
    if weight.is_meta or weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return ()
    places = torch.linspace(0, weight.numel() - 1, _NUM_SAMPLES, dtype=torch.float64).long()
    rows, columns = places // weight.shape[1], places % weight.shape[1]
    numbers = weight.detach()[rows.to(weight.device), columns.to(weight.device)]
    return tuple(float(f"{number:.4g}") for number in numbers.tolist())
