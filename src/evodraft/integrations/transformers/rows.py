"""Rows of a padded batch: the prompt without its padding for us, the padded one for transformers' processors.

A processor or criterion of transformers sees the row as plain decoding would show it, padding included, but always
alone: [1, n]. Some processors hold something for every row of the batch; they are cut down to the one row here.

Does not know generation configs or engines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PrefixConstrainedLogitsProcessor, RepetitionPenaltyLogitsProcessor

from evodraft.errors import PromptError


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row of the prompts that transformers prepared."""

    index: int
    padded: torch.Tensor  # [padded prompt]
    token_ids: tuple[int, ...]  # without padding

    def sequence(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Our `input_ids` [1, n] as transformers would show it: [1, padded n], on the device of the prompts."""
        output = input_ids[:, len(self.token_ids) :].to(self.padded)
        return torch.cat([self.padded[None], output], dim=-1)


def prompt_rows(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[PromptRow]:
    """Rows of `input_ids` [batch, n]; `attention_mask` [batch, n] is 0 on padding, None = there is none.

    Raises PromptError for a row that ends in padding.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    ending = (mask[:, -1] == 0).nonzero().flatten().tolist()
    if ending:
        raise PromptError(
            f"prompt {ending[0]} of {len(input_ids)} ends in padding, and there is no telling what comes after that; "
            "pad on the left: tokenizer.padding_side = 'left'"
        )
    return [
        PromptRow(index, ids, tuple(ids[kept != 0].tolist()))
        for index, (ids, kept) in enumerate(zip(input_ids, mask, strict=True))
    ]


@dataclass(frozen=True, slots=True)
class RowProcessor:
    """A logits processor of transformers, shown one row as it knows it."""

    row: PromptRow
    processor: Any

    @property
    def __name__(self) -> str:
        return str(getattr(self.processor, "__name__", type(self.processor).__name__))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        result = self.processor(self.row.sequence(input_ids), scores.to(self.row.padded.device))
        return result.to(scores.device) if isinstance(result, torch.Tensor) else result


@dataclass(frozen=True, slots=True)
class RowCriterion:
    """A stopping criterion of transformers, shown one row as it knows it."""

    row: PromptRow
    criterion: Any

    @property
    def __name__(self) -> str:
        return str(getattr(self.criterion, "__name__", type(self.criterion).__name__))

    def __call__(self, input_ids: torch.Tensor, scores: None) -> Any:
        return self.criterion(self.row.sequence(input_ids), scores)


def processor_of_row(processor: Any, row: PromptRow) -> RowProcessor:
    """`processor` for one row of a batch of several."""
    narrowed = _NARROWED.get(type(processor))
    return RowProcessor(row, processor if narrowed is None else narrowed(processor, row.index))


def _penalty_of_row(processor: Any, index: int) -> RepetitionPenaltyLogitsProcessor:
    ignored = processor.prompt_ignore_length
    return RepetitionPenaltyLogitsProcessor(
        processor.penalty, int(ignored[index]) if isinstance(ignored, torch.Tensor) else ignored
    )


def _constraint_of_row(processor: Any, index: int) -> PrefixConstrainedLogitsProcessor:
    allowed = processor._prefix_allowed_tokens_fn  # there is no public way to it
    return PrefixConstrainedLogitsProcessor(lambda _, sequence: allowed(index, sequence), num_beams=1)


# Exact types: nobody knows what a subclass makes of its rows.
_NARROWED: Final[Mapping[type, Callable[[Any, int], Any]]] = {
    RepetitionPenaltyLogitsProcessor: _penalty_of_row,
    PrefixConstrainedLogitsProcessor: _constraint_of_row,
}
