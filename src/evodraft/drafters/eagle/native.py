"""A head's rollout in single calls of the library: what is missing of some rows, and tokens or logits behind it.

Does not know what is done with them, nor what the same costs step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch

from evodraft.runtime.native.chain import Chains, ChainStart, ChainWeights, Dice, draft_chains
from evodraft.runtime.native.step import NativeStep

if TYPE_CHECKING:
    from evodraft.drafters.base import DraftRow
    from evodraft.drafters.eagle.rollout import Rollout


def native_weights(rollout: Rollout) -> ChainWeights | None:
    """What the library needs to draft by itself; None where it cannot."""
    passes, output = rollout.passes, rollout.output
    step, head = passes.step, output.weight
    if not isinstance(step.inner, NativeStep) or output.bias is not None:
        return None
    if output.ids is None:
        head = head[: rollout.vocab_size]
    if any(part.dtype != step.dtype or not part.is_contiguous() for part in (head, passes.embedding)):
        return None
    return ChainWeights(step.fuse_weight, head.detach(), output.ids, passes.embedding)


def is_behind(rollout: Rollout, row: DraftRow) -> bool:
    """Whether one pass is missing of a row, no more and no less."""
    return len(rollout.held[row.slot].outputs) == len(row.drafted)


def run_natively(
    rollout: Rollout,
    weights: ChainWeights,
    rows: Sequence[DraftRow],
    depth: int = 1,
    *,
    want_signals: bool = False,
    dice: Dice | None = None,
) -> Chains:
    """The missing pass of each row, and `depth` tokens behind it, or fewer where a slot has no room for them.

    The cache ends where the pass does; features behind it are kept as `Rollout.features` keeps them.
    """
    cache, step = rollout.passes.cache, rollout.passes.step.inner
    assert isinstance(step, NativeStep), "the library was asked for"
    starts, tokens = [rollout.next_column(row) for row in rows], [rollout.next_tokens(row) for row in rows]
    widths = [len(row_tokens) for row_tokens in tokens]
    # a short row beside a long one is drafted as far as that, and must have room for it
    room = min(cache.max_length - start - width for start, width in zip(starts, widths, strict=True))
    depth = min(depth, room + 1)
    for row, column in zip(rows, starts, strict=True):
        cache.crop(row.slot, column)
    wide = [width + depth - 1 for width in widths]
    plan = cache.plan([row.slot for row in rows], wide, max(wide))
    cache.begin(plan)
    start = _start(rollout, weights, rows, list(chain.from_iterable(tokens)), widths)
    found = draft_chains(step, weights, start, cache, plan, depth, want_signals=want_signals, dice=dice)
    cache.commit(plan)
    for row, column, width, states in zip(rows, starts, widths, found.states, strict=True):
        rollout.take(row.slot, width, states)
        cache.crop(row.slot, column + width)
    return found


def _start(
    rollout: Rollout,
    weights: ChainWeights,
    rows: Sequence[DraftRow],
    token_ids: Sequence[int],
    widths: Sequence[int],
) -> ChainStart:
    """The library fuses by itself where all that is missing is the target's."""
    held = [rollout.held[row.slot] for row in rows]
    if all(not one.outputs for one in held):
        taps = [one.all_waiting() for one in held]
        joined = taps[0] if len(taps) == 1 else torch.cat(taps)
        return ChainStart(joined.to(weights.fuse.dtype).contiguous(), None, token_ids, widths)
    states = [
        one.outputs[-1][None] if one.outputs else rollout.fused(row.slot) for one, row in zip(held, rows, strict=True)
    ]
    return ChainStart(None, states[0] if len(states) == 1 else torch.cat(states), token_ids, widths)
