"""Trees as tuples of parents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evodraft.errors import ConfigError
from evodraft.runtime.trees import HELD, ancestors, check_path, checked_parents, depths

trees = st.integers(1, 12).flatmap(lambda size: st.tuples(*(st.integers(HELD, node - 1) for node in range(size))))


def path_to(tree, node):
    """The definition: from the node up to the token before the pass."""
    path = []
    while node != HELD:
        path.append(node)
        node = tree[node]
    return path[::-1]


@given(trees, st.integers(0, 3))
def test_depths_and_ancestors_follow_from_the_paths(tree, padding):
    paths = [path_to(tree, node) for node in range(len(tree))]
    assert depths(tree) == [len(path) - 1 for path in paths]
    width = len(tree) + padding
    rows = ancestors(tree, width)
    assert rows.shape == (width, width)
    for row, path in zip(rows, paths + paths[-1:] * padding, strict=True):
        assert row.nonzero().flatten().tolist() == path


def test_chains_need_no_tree():
    assert checked_parents(None, [3, 1]) is None
    assert checked_parents([[-1, 0, 1], [-1]], [3, 1]) is None
    assert checked_parents([range(-1, 2), [-1, -1]], [3, 2]) == ((-1, 0, 1), (-1, -1))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([[-1, 0]], r"parents name \[2\] nodes for widths \[2, 1\]; each row needs"),
        ([[-1, 0, 0], [-1]], r"parents name \[3, 1\] nodes for widths \[2, 1\]"),
        ([[-1, 1], [-1]], r"node 1 of a tree names parent 1, the limits are -1 .* and 0; a parent stands before"),
        ([[-2, 0], [-1]], r"node 0 of a tree names parent -2, the limits are -1"),
        ([[-1, 0], [0]], r"node 0 of a tree names parent 0, the limits are -1 .* and -1;"),
    ],
)
def test_what_is_no_tree_is_refused(parents, message):
    with pytest.raises(ConfigError, match=message):
        checked_parents(parents, [2, 1])


@pytest.mark.parametrize("nodes", [[], [0], [2], [0, 1, 2]])
def test_paths_ascend_within_what_was_written(nodes):
    check_path(nodes, 3)


@pytest.mark.parametrize("nodes", [[3], [1, 0], [1, 1], [-1], [0, 7]])
def test_other_nodes_are_refused(nodes):
    with pytest.raises(ConfigError, match="a path ascends within the 3 nodes that were written"):
        check_path(nodes, 3)
