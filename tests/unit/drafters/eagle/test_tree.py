"""Which nodes a tree expands and keeps; what children a node is offered."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters.base import Growth, Place
from evodraft.drafters.eagle.tree import Child, Tree, best_children
from evodraft.sampling import raw_signals
from evodraft.types import ROOT, Signals


def family(**weights):
    """Children by letter."""
    return [Child(ord(letter), weight, None) for letter, weight in weights.items()]


def names_of(tree, nodes):
    return "".join(chr(tree.token_ids[node]) for node in nodes)


def test_the_best_nodes_of_a_level_are_expanded():
    tree = Tree(Growth(depth=3, num_nodes=9), branching=2)
    assert tree.frontier == [ROOT]
    tree.open([family(a=-0.5, b=-1.5, c=-3.0)])
    assert (names_of(tree, tree.frontier), tree.depth) == ("ab", 1)
    tree.open([family(d=-2.0, e=-2.1), family(f=-0.1, g=-9.0)])
    assert names_of(tree, tree.frontier) == "df", "by the sum on the way, in the order in which they came"
    assert names_of(tree, tree.expanded) == "ab"
    tree.open([family(h=-0.1), family(i=-0.1)])
    assert tree.frontier == []
    assert tree.grown().depth == 3


def test_what_cannot_be_kept_is_not_expanded():
    tree = Tree(Growth(depth=5, num_nodes=3), branching=8)
    tree.open([family(a=-0.1, b=-5.0, c=-6.0, d=-7.0)])
    assert names_of(tree, tree.frontier) == "abc"
    tree.open([family(e=-0.1, f=-0.2), [], []])
    assert names_of(tree, tree.frontier) == "ef"
    tree.open([family(g=-4.0), family(h=-4.0)])
    assert tree.frontier == []
    grown = tree.grown()
    assert (bytes(grown.token_ids), grown.parents) == (b"aef", (-1, 0, 0))


def test_a_parent_comes_before_a_child_of_equal_value():
    tree = Tree(Growth(depth=3, num_nodes=2), branching=2)
    tree.open([family(a=0.0, b=-9.0)])
    tree.open([family(c=0.0), family(d=0.0)])
    assert bytes(tree.grown().token_ids) == b"ac"


def test_siblings_stand_in_the_order_of_trial_and_signals_with_their_nodes():
    signals = [Signals(1.0, 0.5, 0.1, probability) for probability in (0.5, 0.4)]
    tree = Tree(Growth(depth=1, num_nodes=2), branching=2)
    tree.open([[Child(9, -0.1, signals[0]), Child(3, -0.2, signals[1])]])
    grown = tree.grown()
    assert (grown.token_ids, grown.parents, grown.signals) == ((9, 3), (-1, -1), tuple(signals))


def test_a_node_without_children_ends_its_branch():
    tree = Tree(Growth(depth=3, num_nodes=5), branching=2)
    tree.open([[]])
    assert tree.frontier == []
    assert tree.grown().num_tokens == 0


LOGITS = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, -torch.inf, -torch.inf, 1.0]])
PLACES = [Place(0, 0), Place(2, 1)]


@pytest.mark.parametrize("ids", [None, torch.tensor([2, 3, 5, 7])])
def test_children_are_the_likeliest_tokens(ids):
    first, second = best_children(LOGITS, ids, PLACES, None, 3, want_signals=False)
    names = list(range(4)) if ids is None else ids.tolist()
    assert [child.token_id for child in first] == [names[1], names[2], names[0]]
    assert [child.token_id for child in second] == [names[0], names[3]], "the impossible is no child"
    law = LOGITS.log_softmax(dim=-1)
    assert [child.log_weight for child in first] == pytest.approx(law[0, [1, 2, 0]].tolist())
    assert all(child.signals is None for child in [*first, *second])


def test_a_rank_is_asked_and_its_weights_are_made_comparable():
    """Noise may lift a log-weight above 0; a child that is worth more than its parent would be kept without it."""
    seen = []

    def rank(logits, ids, places):
        seen.append((logits, ids, places))
        return logits.flip(1) + 10.0

    first, second = best_children(LOGITS, None, PLACES, rank, 1, want_signals=False)
    assert seen == [(LOGITS, None, PLACES)]
    assert (first[0].token_id, second[0].token_id) == (2, 3)
    assert max(first[0].log_weight, second[0].log_weight) <= 0.0


def test_signals_are_those_of_the_raw_law_whatever_ranks():
    found = best_children(LOGITS[:1], None, PLACES[:1], lambda logits, *_: -logits, 2, want_signals=True)[0]
    assert [child.token_id for child in found] == [3, 0]
    for child in found:
        assert child.signals == raw_signals(LOGITS[:1], torch.tensor([child.token_id]))[0]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_have_no_children(poison):
    logits = LOGITS.clone()
    logits[0, 2] = poison
    first, second = best_children(logits, None, PLACES, None, 2, want_signals=True)
    assert first == []
    assert len(second) == 2
