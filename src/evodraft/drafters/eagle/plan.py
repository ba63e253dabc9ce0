"""A named head to a drafter: read, compared with the target, and connected with what it shares with it.

Does not know how a head drafts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.drafters.base import DrafterContext, DrafterPlan
from evodraft.drafters.eagle.config import EagleConfig, source_of
from evodraft.drafters.eagle.drafter import EagleDrafter
from evodraft.drafters.eagle.files import find_head
from evodraft.drafters.eagle.fit import check_head, check_shared, doubt_about
from evodraft.drafters.eagle.head import EagleHead
from evodraft.drafters.eagle.layouts import describe_head
from evodraft.drafters.eagle.origin import Origin
from evodraft.drafters.eagle.output import OwnOutput
from evodraft.drafters.eagle.step import EagleStep, choose_step
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.errors import ConfigError, UnsupportedModelError
from evodraft.runtime.support import innermost

if TYPE_CHECKING:
    from evodraft.drafters.vocabulary import Vocabulary

_logger = logging.getLogger(__name__)


class _Shared(NamedTuple):
    """What a head may use of its target."""

    embedding: torch.Tensor  # [vocab, target hidden]
    output: torch.Tensor | None  # [vocab, target hidden]; None = it cannot be read
    output_bias: torch.Tensor | None  # [vocab]


def plan_eagle_drafter(config: EagleConfig, context: DrafterContext) -> DrafterPlan:
    """Reads the head and checks that it fits the target.

    Raises ConfigError if no head is named and none is bundled, WeightsError, UnsupportedModelError or
    ModelMismatchError for one that cannot be used.
    """
    if context.target is None:
        raise ConfigError("drafter 'eagle' reads the target's hidden states, and no target is known here; name another")
    origin, shared = Origin.of(context.target), _shared(context.target)
    head, place = _head(config, context, origin)
    step = choose_step(head, context.runtime)
    embedding = _embedding(head, shared, origin, place)
    output = _output(head, shared, origin, place, step, context.vocabulary)

    def make(num_slots: int, max_length: int, cache_tokens: int | None) -> EagleDrafter:
        return EagleDrafter(
            head,
            embedding,
            output,
            num_slots,
            max_length,
            step=step,
            vocab_size=context.vocab_size,
            cache_tokens=cache_tokens,
        )

    return DrafterPlan(cache_bytes(head), make)


def cache_bytes(head: EagleHead) -> int:
    """Keys and values of one token of one slot."""
    keys = head.midlayer.self_attn.k_proj
    return 2 * keys.out_features * keys.weight.element_size()


def _head(config: EagleConfig, context: DrafterContext, origin: Origin) -> tuple[EagleHead, str]:
    if isinstance(config.head, EagleHead):
        check_head(describe_head(config.head), origin, "that was given", check_target=False)
        _check_placed(config.head, context)
        return config.head, "that was given"
    found = find_head(source_of(config, context.bundled_heads), config.revision)
    check_head(found.description, origin, found.place, check_target=config.check_target)
    doubt = doubt_about(found.description, found.place)
    if config.check_target and doubt is not None:
        _logger.warning(doubt)
    return found.load(origin.num_layers, dtype=context.dtype, device=context.device), found.place


def _check_placed(head: EagleHead, context: DrafterContext) -> None:
    """A head that is loaded already stays as it is: it shares matrices with its target, and so type and place."""
    weight = head.fc.weight
    if weight.dtype != context.dtype or weight.device.type != context.device.type:
        raise ConfigError(
            f"the head that was given has {weight.dtype} on {weight.device} and the target {context.dtype} on "
            f"{context.device}; convert it before, with head.to({str(context.device)!r}, {context.dtype})"
        )


def _shared(target: torch.nn.Module) -> _Shared:
    base = innermost(target)
    output = base.get_output_embeddings()
    weight = getattr(output, "weight", None)
    is_plain = isinstance(weight, torch.Tensor) and weight.is_floating_point() and weight.ndim == 2
    return _Shared(base.get_input_embeddings().weight, weight if is_plain else None, getattr(output, "bias", None))


def _embedding(head: EagleHead, shared: _Shared, origin: Origin, place: str) -> torch.Tensor:  # [vocab, hidden]
    if head.embed_tokens is not None:
        return head.embed_tokens.weight.detach()
    check_shared(head.shape.config.hidden_size, origin, "embedding", place)
    return shared.embedding.detach()


def _output(
    head: EagleHead, shared: _Shared, origin: Origin, place: str, step: EagleStep, vocabulary: Vocabulary | None
) -> SlicedHead:
    wanted = None if vocabulary is None else vocabulary.ids
    if head.lm_head is not None and head.token_ids is not None:
        return OwnOutput(head.lm_head.weight, head.token_ids, wanted, step.linear)
    check_shared(head.shape.config.hidden_size, origin, "output matrix", place)
    if shared.output is None:
        raise UnsupportedModelError(
            f"the head {place} uses the target's output matrix, which is quantised or none; take a head with its own"
        )
    return SlicedHead(shared.output, shared.output_bias, wanted, step.linear)
