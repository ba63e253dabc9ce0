"""Chains in one call: greedy ones by the library where everything is native, else step by step; drawn ones by it only.

Does not know trees, nor where laws and noise come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.drafters.base import DraftRow, Drawn, Grown, Place
from evodraft.drafters.eagle.native import run_natively
from evodraft.drafters.eagle.tree import Child, best_children
from evodraft.runtime.native.chain import Dice

if TYPE_CHECKING:
    from evodraft.drafters.base import Draws, Rank
    from evodraft.drafters.eagle.rollout import Rollout
    from evodraft.runtime.native.chain import ChainWeights
    from evodraft.types import Signals


def chained(token_ids: Sequence[int], signals: Sequence[Signals | None] = ()) -> Grown:
    """A chain of chosen tokens."""
    return Grown(tuple(token_ids), tuple(range(-1, len(token_ids) - 1)), tuple(signals))


def chains_by_steps(
    rollout: Rollout,
    rows: Sequence[DraftRow],
    depths: Sequence[int],
    numbers: Sequence[int],  # of the rows, for `rank`
    rank: Rank | None,
    *,
    want_signals: bool,
) -> list[Grown]:
    """The best token after each row, `depths` times; a row ends early where no logit is finite."""
    drafts = [DraftRow(row.slot, row.committed) for row in rows]
    taken: list[list[Child]] = [[] for _ in rows]
    growing = list(range(len(rows)))
    for depth in range(max(depths)):
        growing = [index for index in growing if depth < depths[index]]
        logits = rollout.logits(rollout.features([drafts[index] for index in growing]))
        places = [Place(numbers[index], depth) for index in growing]
        families = best_children(logits, rollout.output.ids, places, rank, 1, want_signals=want_signals)
        for index, family in zip(growing, families, strict=True):
            taken[index] += family
            drafts[index].drafted.extend(child.token_id for child in family)
        growing = [index for index, family in zip(growing, families, strict=True) if family]
        if not growing:
            break
    for row in rows:
        rollout.rewind(row.slot)
    return [
        chained([child.token_id for child in one], [child.signals for child in one] if want_signals else ())
        for one in taken
    ]


def native_chains(
    rollout: Rollout,
    weights: ChainWeights,
    rows: Sequence[DraftRow],
    depths: Sequence[int],
    *,
    want_signals: bool,
) -> list[Grown]:
    """The same as `chains_by_steps` without `rank`, for rows whose last true column has not been computed yet."""
    found = run_natively(rollout, weights, rows, max(depths), want_signals=want_signals)
    return [
        chained(token_ids[:limit], signals[:limit])
        for token_ids, signals, limit in zip(found.token_ids, found.signals, depths, strict=True)
    ]


def drawn_chains(
    rollout: Rollout, weights: ChainWeights, rows: Sequence[DraftRow], draws: Sequence[Draws]
) -> list[Drawn]:
    """Drawn by the library, for rows whose last true column has not been computed yet."""
    dice = Dice([one.temperature for one in draws], [one.key_words for one in draws])
    found = run_natively(rollout, weights, rows, max(map(len, dice.key_words)), dice=dice)
    assert found.laws is not None, "there were dice"
    chains = []
    for token_ids, laws, one in zip(found.token_ids, found.laws, draws, strict=True):
        count = min(len(token_ids), len(one.key_words))
        chains.append(Drawn(tuple(token_ids[:count]), rollout.fitted(laws[:count], 0.0), rollout.output.ids))
    return chains
