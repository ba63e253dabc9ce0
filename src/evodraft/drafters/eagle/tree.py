"""A draft tree that grows where the head is most confident, as in EAGLE-2 (arXiv 2406.16858) and EAGLE-3.

Level by level, the best nodes so far get children; in the end the best of all nodes are kept. A node's value is the sum
of log-weights on the way to it, so no child is worth more than its parent and what is kept is a tree. Does not know
heads or caches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.drafters.base import Grown, Growth
from evodraft.sampling import raw_signals
from evodraft.types import ROOT

if TYPE_CHECKING:
    from evodraft.drafters.base import Place, Rank
    from evodraft.types import Signals


class Child(NamedTuple):
    """A token that may follow a node."""

    token_id: int
    log_weight: float  # at most 0
    signals: Signals | None


class Tree:
    """One row's tree. Nodes are numbered in the order in which they came, parents first.

    >>> tree = Tree(Growth(depth=2, num_nodes=3), branching=2)
    >>> tree.open([[Child(5, -0.1, None), Child(7, -2.5, None)]])
    >>> tree.frontier
    [0, 1]
    >>> tree.open([[Child(7, -0.2, None), Child(5, -1.9, None)], [Child(1, -0.1, None)]])
    >>> tree.frontier, tree.grown()
    ([], Grown(token_ids=(5, 7, 5), parents=(-1, 0, 0), signals=()))
    """

    def __init__(self, growth: Growth, branching: int) -> None:
        self.growth = growth
        self.branching = branching
        self.token_ids: list[int] = []
        self.parents: list[int] = []
        self.expanded: list[int] = []  # nodes that were given children, the root left out
        self.frontier: list[int] = [ROOT]  # nodes that are to be given children next
        self._values: list[float] = []
        self._signals: list[Signals | None] = []
        self._depth = 0

    @property
    def depth(self) -> int:
        """Levels that there are."""
        return self._depth

    def open(self, families: Sequence[Sequence[Child]]) -> None:
        """Gives its children, the best first, to each node of the frontier, and chooses the next one."""
        first = len(self.token_ids)
        for parent, family in zip(self.frontier, families, strict=True):
            value = 0.0 if parent == ROOT else self._values[parent]
            for child in family:
                self.token_ids.append(child.token_id)
                self.parents.append(parent)
                self._values.append(value + child.log_weight)
                self._signals.append(child.signals)
        self.expanded += [node for node in self.frontier if node != ROOT]
        self._depth += 1
        # what is not among the best now never will be, and neither will its children
        young = [node for node in self._best(range(len(self.token_ids)), self.growth.num_nodes) if node >= first]
        self.frontier = sorted(self._best(young, self.branching)) if self._depth < self.growth.depth else []

    def grown(self) -> Grown:
        """The best nodes."""
        kept = sorted(self._best(range(len(self.token_ids)), self.growth.num_nodes))
        places = {node: place for place, node in enumerate(kept)} | {ROOT: ROOT}
        signals = tuple(self._signals[node] for node in kept)
        return Grown(
            tuple(self.token_ids[node] for node in kept),
            tuple(places[self.parents[node]] for node in kept),
            signals if any(signal is not None for signal in signals) else (),
        )

    def _best(self, nodes: Iterable[int], count: int) -> list[int]:
        """Ties go to the earlier node, so that a parent comes before a child of equal value."""
        return sorted(nodes, key=lambda node: (-self._values[node], node))[:count]


def best_children(
    logits: torch.Tensor,  # [nodes, columns] raw
    ids: torch.Tensor | None,  # [columns]: token of each column; None = column is id
    places: Sequence[Place],  # [nodes]
    rank: Rank | None,
    branching: int,
    *,
    want_signals: bool,
) -> list[list[Child]]:
    """The best tokens after each node, at most `branching`, the best first; none where logits are not finite."""
    ranked = logits if rank is None else rank(logits, ids, places)
    weights, columns = ranked.float().log_softmax(dim=-1).topk(min(branching, logits.shape[1]), dim=-1)
    token_ids = columns if ids is None else ids[columns]
    nothing: list[Signals | None] = [None] * columns.shape[1]
    signals = _signals(logits, columns) if want_signals else [nothing] * len(places)
    families = [map(Child, *family) for family in zip(token_ids.tolist(), weights.tolist(), signals, strict=True)]
    return [[child for child in family if math.isfinite(child.log_weight)] for family in families]


def _signals(
    logits: torch.Tensor,  # [nodes, all]
    columns: torch.Tensor,  # [nodes, children]
) -> list[list[Signals | None]]:
    num_children = columns.shape[1]
    found: list[Signals | None] = [*raw_signals(logits.repeat_interleave(num_children, dim=0), columns.flatten())]
    return [found[start : start + num_children] for start in range(0, len(found), num_children)]
