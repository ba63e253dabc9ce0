"""The start-up check: does this model score ragged, cached, masked passes as it scores plain text?

Two tiny sequences go through slots in ragged pieces and, for comparison, through the model's own plain forward. An
architecture that ignores our masks or positions, or uses its cache in a way of its own, differs and is refused.

This module does not know what the sequences mean, and beyond its three tokens it sees only what window_probe.py sees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from evodraft.errors import EvodraftError, UnsupportedModelError
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.masks import FULL_ATTENTION, LayerKind
from evodraft.runtime.model_call import ModelCall
from evodraft.runtime.view import SlotView
from evodraft.runtime.window_probe import ignores_window

if TYPE_CHECKING:
    from evodraft.runtime.base import Decoder, DecoderOutput
    from evodraft.runtime.support import ModelFacts

CHECKED_LENGTH: Final = 4  # tokens that a slot must be able to hold
_MARGIN = 0.05  # of the distance to a wrong context: what coarse arithmetic (int8, bfloat16) may deviate


def check_model(model: torch.nn.Module, facts: ModelFacts) -> ModelFacts:
    """The facts as observed: whether a window is real, and the bytes that a token takes in the cache.

    Raises UnsupportedModelError if the model cannot be decoded in slots.
    """
    window = facts.unproven_window
    cache = SlotCache(facts.num_layers, num_slots=2, max_length=CHECKED_LENGTH)
    token_ids = _two_sequences(facts.vocab_size)
    with _naming_failures(facts):
        if window is not None:
            is_ignored = ignores_window(model, facts, window)
            kind = FULL_ATTENTION if is_ignored else LayerKind("sliding_attention", window=window)
            facts = replace(facts, kinds=(kind,))
        call = ModelCall(model, facts)
        ours = _in_pieces(functools.partial(call, SlotView(cache)), token_ids)
        reference = call.reference(token_ids)
    _refuse_deviation(
        ours,
        reference,
        f"model type {facts.model_type!r} scores ragged passes differently from plain text",
        "it probably ignores attention_mask or position_ids; choose another architecture, or build "
        "HfDecoder(model, self_check=False) if this is wrong",
    )
    return replace(facts, bytes_per_token=cache.bytes_per_token)


def check_decoder(decoder: Decoder, model: torch.nn.Module, facts: ModelFacts) -> None:
    """Raises UnsupportedModelError unless a decoder with two empty slots says what the model's own modules say."""
    token_ids = _two_sequences(facts.vocab_size)
    _refuse_deviation(
        _in_pieces(decoder.forward, token_ids),
        ModelCall(model, facts).reference(token_ids),
        f"computing with the weights of model type {facts.model_type!r} says something else than its modules",
        "take another runtime",
    )


@contextmanager
def _naming_failures(facts: ModelFacts) -> Iterator[None]:
    try:
        yield
    except EvodraftError:
        raise
    except Exception as error:  # foreign code with arguments it may never have met: any failure means "cannot"
        raise UnsupportedModelError(
            f"model type {facts.model_type!r} failed on a ragged pass with ready masks and positions: "
            f"{type(error).__name__}: {error}; choose another architecture, or build "
            "HfDecoder(model, self_check=False) if this is wrong"
        ) from error


def _two_sequences(vocab_size: int) -> torch.Tensor:  # [2, 3]
    """Ids spread over the vocabulary; both end with the same token, so that only the context differs there."""
    first, second = [vocab_size * step // 8 for step in (1, 2, 5)], [vocab_size * step // 8 for step in (3, 4, 5)]
    return torch.tensor([first, second])


def _in_pieces(score: Callable[..., DecoderOutput], token_ids: torch.Tensor) -> torch.Tensor:  # [2, 3, vocab]
    """2 + 1 tokens of the first sequence beside 1 + 2 of the second, the rows in another order each time; beside the
    last token of the first stands another one, a branch of its own."""
    padded = token_ids[:, :2].clone()
    early = score(padded.flip(0), widths=[1, 2], slots=[1, 0]).logits
    late_ids = torch.stack([token_ids[0, [0, 2]], token_ids[1, 1:]])
    late = score(late_ids, widths=[2, 2], slots=[0, 1], parents=[(-1, -1), (-1, 0)]).logits
    assert early is not None
    assert late is not None
    return torch.stack([torch.cat([early[1], late[0, 1:]]), torch.cat([early[0, :1], late[1]])]).float()


def _refuse_deviation(ours: torch.Tensor, reference: torch.Tensor, what: str, remedy: str) -> None:
    deviation, limit = _deviation(ours.to(reference.device), reference.float()), _limit(reference)
    if not deviation <= limit:  # written so that NaN is refused too
        raise UnsupportedModelError(
            f"{what}: logits differ by {deviation:.3g} (root mean square), the limit is {limit:.3g}; {remedy}"
        )


def _deviation(ours: torch.Tensor, reference: torch.Tensor) -> float:  # both [2, 3, vocab]
    """Where the model itself gives NaN or infinity there is nothing to compare; requests meet that on their own."""
    squares = (ours - reference).square().masked_fill(~reference.isfinite(), 0.0)
    return float(squares.mean(dim=-1).sqrt().max())


def _limit(reference: torch.Tensor) -> float:
    """Rounding of the logits' type, or a small part of what a wrong context would change, whichever is more."""
    finite = reference.float().nan_to_num(0.0, 0.0, 0.0)
    rounding: float = 8 * torch.finfo(reference.dtype).eps ** 0.75 * float(finite.std(dim=-1).max())
    return max(rounding, _MARGIN * _deviation(finite[0, -1:], finite[1, -1:]))
