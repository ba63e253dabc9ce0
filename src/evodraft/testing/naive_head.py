"""What an EAGLE-3 head says of a text, computed from scratch by its modules: the reference for every faster way.

Does not know caches, batches, trees or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

if TYPE_CHECKING:
    from evodraft.drafters.eagle.head import Attend, EagleHead


def naive_features(
    head: EagleHead,
    embedding: torch.Tensor,  # [vocab, hidden]
    taps: torch.Tensor,  # [tokens - 1, taps * target hidden], of all committed tokens but the last
    committed: Sequence[int],  # [tokens]
    drafted: Sequence[int] = (),
) -> torch.Tensor:  # [hidden]
    """The head's features after the last token: the target's as far as they are known, then the head's own.

    >>> from evodraft.testing.heads import tiny_head
    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("llama")
    >>> taps = torch.ones(2, 3 * 32)
    >>> naive_features(tiny_head(model), model.get_input_embeddings().weight, taps, [5, 6, 7], [8]).shape
    torch.Size([32])
    """
    assert taps.shape[0] == len(committed) - 1 > 0, "features are known of every token but the last"
    with torch.no_grad():
        features = head.fuse(taps)
        token_ids = list(committed[1:])
        last = _behind(head, embedding, features, token_ids)
        for token_id in drafted:
            features = torch.cat([features, last[None]])
            token_ids.append(token_id)
            last = _behind(head, embedding, features, token_ids)
        return last


def naive_logits(
    head: EagleHead,
    output: torch.Tensor,  # [vocab, hidden]
    features: torch.Tensor,  # [hidden]
) -> torch.Tensor:  # [vocab]
    """Logits of the token after."""
    with torch.no_grad():
        logits: torch.Tensor = output @ head.norm(features)
        return logits


def _behind(
    head: EagleHead, embedding: torch.Tensor, features: torch.Tensor, token_ids: Sequence[int]
) -> torch.Tensor:  # [columns, hidden] -> [hidden]
    last: torch.Tensor = head.midlayer(embedding[list(token_ids)], features, _causal(head, features))[-1]
    return last


def _causal(head: EagleHead, features: torch.Tensor) -> Attend:  # [columns, hidden]
    num_columns = features.shape[0]
    cos, sin = head.rotary_emb(features[None], torch.arange(num_columns)[None])
    is_later = torch.ones(num_columns, num_columns).triu(1).bool()

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        heads = [states.transpose(0, 1)[None] for states in (query, key, value)]  # [1, heads, columns, head_dim]
        query, key = apply_rotary_pos_emb(heads[0], heads[1], cos, sin)
        group = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, group), repeat_kv(heads[2], group)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        mixed: torch.Tensor = scores.masked_fill(is_later, -torch.inf).softmax(dim=-1) @ value
        return mixed[0].transpose(0, 1)

    return attend
