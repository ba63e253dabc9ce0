"""Trees of tokens inside one row of a pass, as tuples of parents: checked, measured, and who is whose ancestor.

A node's parent is an earlier node of its row, or HELD: the last token that the slot held before the pass. This module
does not know slots, positions, windows or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from evodraft.errors import ConfigError

HELD: Final = -1


def checked_parents(
    parents: Sequence[Sequence[int]] | None, widths: Sequence[int]
) -> tuple[tuple[int, ...], ...] | None:
    """The trees of a pass, None if all rows are chains. Raises ConfigError for what is no tree.

    >>> checked_parents([[-1, 0, 0], [-1]], widths=[3, 1])
    ((-1, 0, 0), (-1,))
    >>> checked_parents([[-1, 0, 1], [-1]], widths=[3, 1]) is None
    True
    """
    if parents is None:
        return None
    if [len(row) for row in parents] != list(widths):
        raise ConfigError(
            f"parents name {[len(row) for row in parents]} nodes for widths {list(widths)}; each row needs one parent "
            "for each of its tokens; repair the drafter that made the tree"
        )
    for row in parents:
        for node, parent in enumerate(row):
            if not HELD <= parent < node:
                raise ConfigError(
                    f"node {node} of a tree names parent {parent}, the limits are {HELD} (the token before the pass) "
                    f"and {node - 1}; a parent stands before its children; repair the drafter that made the tree"
                )
    trees = tuple(tuple(row) for row in parents)
    return None if all(row == tuple(range(HELD, len(row) - 1)) for row in trees) else trees


def check_path(nodes: Sequence[int], num_nodes: int) -> None:
    """Raises ConfigError unless `nodes` ascend and are among the `num_nodes` that a slot was given."""
    if list(nodes) != sorted(set(nodes)) or not all(0 <= node < num_nodes for node in nodes):
        raise ConfigError(
            f"nodes {list(nodes)} are no path: a path ascends within the {num_nodes} nodes that were written; pass a "
            "path of the tree that was scored last"
        )


def depths(parents: Sequence[int]) -> list[int]:  # [nodes] -> [nodes]
    """How many nodes stand above each node.

    >>> depths([-1, 0, 0, 1])
    [0, 1, 1, 2]
    """
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent == HELD else found[parent] + 1)
    return found


def ancestors(parents: Sequence[int], width: int) -> torch.Tensor:  # [nodes] -> [width, width] bool
    """Row n: node n and every node on its way up. Rows past the last node repeat it.

    >>> ancestors([-1, 0, 0], width=4).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]
    """
    rows: list[bytearray] = []
    for node, parent in enumerate(parents):
        rows.append(bytearray(width if parent == HELD else rows[parent]))
        rows[node][node] = 1
    rows += rows[-1:] * (width - len(rows))
    return torch.frombuffer(bytearray().join(rows), dtype=torch.bool).view(width, width)
