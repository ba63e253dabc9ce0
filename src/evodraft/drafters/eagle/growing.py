"""Grows the trees of a batch level by level, one pass of the head for all that get children.

Does not know which nodes are best: tree.py does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.drafters.base import Grown, Growth, Place
from evodraft.drafters.eagle.passes import Piece
from evodraft.drafters.eagle.tree import Tree, best_children
from evodraft.runtime.trees import HELD
from evodraft.types import ROOT

if TYPE_CHECKING:
    from evodraft.drafters.base import DraftRow, Rank
    from evodraft.drafters.eagle.rollout import Rollout


class _Growing(NamedTuple):
    number: int  # of the row, for `rank`
    slot: int
    start: int  # column of the first node
    tree: Tree
    features: dict[int, torch.Tensor]  # node -> [hidden] behind it


def grow_trees(
    rollout: Rollout,
    rows: Sequence[DraftRow],
    growths: Sequence[Growth],
    numbers: Sequence[int],  # of the rows, for `rank`
    rank: Rank | None,
    branching: int,
    *,
    want_signals: bool,
) -> list[Grown]:
    """A tree for each row. The cache holds what is true in the end, and nothing of the trees."""
    found = rollout.features(rows)
    growing = [
        _Growing(number, row.slot, rollout.held[row.slot].num_true, Tree(growth, branching), {ROOT: features})
        for number, row, growth, features in zip(numbers, rows, growths, found, strict=True)
    ]
    level = growing
    while level:
        features = torch.stack([item.features[node] for item in level for node in item.tree.frontier])
        places = [Place(item.number, item.tree.depth) for item in level for _ in item.tree.frontier]
        logits = rollout.logits(features)
        families = best_children(logits, rollout.output.ids, places, rank, branching, want_signals=want_signals)
        for item in level:
            count = len(item.tree.frontier)
            item.tree.open(families[:count])
            del families[:count]
        level = [item for item in level if item.tree.frontier and _fits(rollout, item)]
        if level:
            _compute(rollout, level)
    for row in rows:
        rollout.rewind(row.slot)
    return [item.tree.grown() for item in growing]


def _fits(rollout: Rollout, item: _Growing) -> bool:
    return item.start + len(item.tree.expanded) + len(item.tree.frontier) <= rollout.passes.cache.max_length


def _compute(rollout: Rollout, level: Sequence[_Growing]) -> None:
    """Features behind the frontiers. A pass holds a tree whole, so that what is above them is named again."""
    for item, output in zip(level, rollout.passes.run([_piece(item) for item in level]), strict=True):
        frontier = item.tree.frontier
        item.features.update(zip(frontier, output[-len(frontier) :], strict=True))


def _piece(item: _Growing) -> Piece:
    tree = item.tree
    nodes = [*tree.expanded, *tree.frontier]
    columns = {node: column for column, node in enumerate(nodes)} | {ROOT: HELD}
    return Piece(
        item.slot,
        item.start,
        torch.stack([item.features[tree.parents[node]] for node in nodes]),
        [tree.token_ids[node] for node in nodes],
        [columns[tree.parents[node]] for node in nodes],
        len(tree.expanded),
    )
