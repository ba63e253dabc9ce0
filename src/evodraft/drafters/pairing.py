"""Do two tokenizers speak the same tokens? Compared by content: padded embedding sizes say nothing.

Qwen2.5-0.5B drafts for 7B although their embedding sizes differ; two 32k vocabularies of different families do not
fit each other although their sizes are equal. Does not know models beyond their embedding size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evodraft.errors import ModelMismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_SHOWN = 5


def check_same_tokens(
    target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase, num_draft_embeddings: int
) -> None:
    """Raises ModelMismatchError unless every id of the target means the same to the draft model.

    Args:
        target: the target's tokenizer.
        draft: the draft model's tokenizer.
        num_draft_embeddings: rows of the draft model's embedding; every target id must have one.
    """
    target_ids, draft_ids = _tokens_by_id(target), _tokens_by_id(draft)
    different = [i for i, token in target_ids.items() if draft_ids.get(i, token) != token]
    if different:
        shown = ", ".join(
            f"id {i}: target {target_ids[i]!r}, draft {draft_ids[i]!r}" for i in sorted(different)[:_NUM_SHOWN]
        )
        raise ModelMismatchError(
            f"{len(different)} of {len(target_ids)} token ids differ between target and draft ({shown}); "
            "use a draft model of the same family, or drafter='ngram', which needs no model"
        )
    largest = max(target_ids)
    if largest >= num_draft_embeddings:
        raise ModelMismatchError(
            f"target id {largest} ({target_ids[largest]!r}) has no row in the draft model's embedding of "
            f"{num_draft_embeddings} rows; use a draft model whose embedding covers the target's tokenizer"
        )


def _tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {token_id: token for token, token_id in tokenizer.get_vocab().items()}
