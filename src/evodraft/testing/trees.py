"""A drafter that grows trees of any shape with the steps of another one: slow, and obvious.

Does not know targets or verifiers, nor which shape would be a good one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.drafters.base import CommittedRow, DrafterNeeds, DraftRow, DraftStep, Grown, Growth, Place, Rank
from evodraft.sampling import raw_signals
from evodraft.types import ROOT, Signals, Update

if TYPE_CHECKING:
    from evodraft.drafters.base import Drafter
    from evodraft.target import Chunk

Shape = Callable[[tuple[int, ...], Growth], Sequence[int]]
"""Parents [nodes] of the tree that is grown after a context, within a growth."""


def random_shape(seed: int = 0) -> Shape:
    """Another tree for every context, some of them empty.

    >>> random_shape(3)((1, 2), Growth(depth=2, num_nodes=5))
    [-1, -1, 1, 1, -1]
    """

    def shape(context: tuple[int, ...], growth: Growth) -> list[int]:
        coin = random.Random(repr((seed, context)))
        parents: list[int] = []
        depths = {ROOT: 0}
        for node in range(coin.randint(0, growth.num_nodes)):
            parents.append(coin.choice([above for above, depth in depths.items() if depth < growth.depth]))
            depths[node] = depths[parents[-1]] + 1
        return parents

    return shape


class TreeDrafter:
    """Drafts like `inner`, and grows: the children of a node are the best tokens of a step of `inner` there.

    Args:
        inner: feeds on no taps.
        shape: of a tree; where the growth has as many nodes as depth, a chain grows.

    >>> from evodraft.testing.drafters import ScriptedDrafter
    >>> drafter = TreeDrafter(ScriptedDrafter(lambda context: [0.2, 0.5, 0.3], 3), lambda context, growth: [-1, -1, 0])
    >>> drafter.grow([DraftRow(0, [1])], [Growth(2, 3)], rank=None, want_signals=False)[0].token_ids
    (1, 2, 1)
    """

    needs = DrafterNeeds()

    def __init__(self, inner: Drafter, shape: Shape) -> None:
        self.inner = inner
        self.shape = shape
        self.versions = inner.versions
        self.max_length = inner.max_length

    def admit(self, chunks: Sequence[Chunk]) -> None:
        self.inner.admit(chunks)

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        return self.inner.step(rows)

    def grow(
        self, rows: Sequence[DraftRow], growths: Sequence[Growth], rank: Rank | None, want_signals: bool
    ) -> list[Grown]:
        return [
            self._grow(_Plot(Place(index, 0), row, rank), growth, want_signals)
            for index, (row, growth) in enumerate(zip(rows, growths, strict=True))
        ]

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        self.inner.commit(rows)

    def release(self, slot: int) -> None:
        self.inner.release(slot)

    def apply(self, update: Update) -> None:
        self.inner.apply(update)
        self.versions = self.inner.versions

    def _grow(self, plot: _Plot, growth: Growth, want_signals: bool) -> Grown:
        is_chain = growth.num_nodes == growth.depth
        parents = range(ROOT, growth.depth - 1) if is_chain else self.shape(tuple(plot.row.committed), growth)
        num_children = Counter(parents)
        paths: dict[int, tuple[int, ...]] = {ROOT: ()}
        offers: dict[int, Iterator[_Child]] = {}
        number: dict[int, int] = {ROOT: ROOT}  # of a node of the shape, among those for which there was a token
        grown: list[tuple[_Child, int]] = []
        for node, parent in enumerate(parents):
            if parent not in number:
                continue
            if parent not in offers:
                offers[parent] = iter(self._children(plot, paths[parent], num_children[parent]))
            child = next(offers[parent], None)
            if child is not None:
                number[node], paths[node] = len(grown), (*paths[parent], child.token_id)
                grown.append((child, number[parent]))
        signals = tuple(child.signals for child, _ in grown) if want_signals else ()
        return Grown(tuple(child.token_id for child, _ in grown), tuple(parent for _, parent in grown), signals)

    def _children(self, plot: _Plot, path: tuple[int, ...], num_children: int) -> list[_Child]:
        row = plot.row
        step = self.inner.step([DraftRow(row.slot, row.committed, list(path))])
        self.inner.commit([CommittedRow(row.slot, len(row.committed), {})])  # forgets the path again
        if step.logits is None:
            assert step.token_ids is not None
            return [_Child(token_id, None) for token_id in step.token_ids if token_id is not None]
        weights = step.logits.log_softmax(dim=-1)
        if plot.rank is not None:
            weights = plot.rank(step.logits, step.ids, [Place(plot.place.row, len(path))])
        columns = weights[0].argsort(descending=True, stable=True)[:num_children]
        columns = columns[weights[0, columns] > -torch.inf]
        token_ids: list[int] = (columns if step.ids is None else step.ids[columns]).tolist()
        signals = raw_signals(step.logits.expand(len(columns), -1), columns)
        return [_Child(*pair) for pair in zip(token_ids, signals, strict=True)]


class _Plot(NamedTuple):
    """Where a tree grows."""

    place: Place  # of its root
    row: DraftRow
    rank: Rank | None


class _Child(NamedTuple):
    """A token for a node."""

    token_id: int
    signals: Signals | None
