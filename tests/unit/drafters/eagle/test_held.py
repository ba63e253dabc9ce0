"""The books of one sequence, alone."""

from __future__ import annotations

import torch

from evodraft.drafters.eagle.held import Held


def features(start, end):
    """Row i says that it belongs to token i."""
    return torch.arange(start, end, dtype=torch.float32)[:, None]


def waiting(held):
    return [int(row) for part in held.waiting for row in part[:, 0]]


def test_features_wait_for_their_columns():
    held = Held()
    assert not held.is_ready(1)
    held.learn(0, features(0, 3))
    assert (held.num_known, waiting(held), held.is_ready(4), held.is_ready(5)) == (3, [0, 1, 2], True, False)
    held.settle(2, torch.tensor([7.0]))
    assert (held.num_true, waiting(held), held.outputs) == (2, [2], []), "nothing goes on from here before the last"
    held.settle(1, torch.tensor([8.0]))
    assert (held.num_true, waiting(held), held.outputs) == (3, [], [torch.tensor([8.0])])


def test_what_is_known_is_passed_over():
    held = Held()
    held.learn(0, features(0, 3))
    held.learn(1, features(1, 5))
    held.learn(2, features(2, 4))
    assert waiting(held) == [0, 1, 2, 3, 4]


def test_new_features_end_the_draft_and_old_ones_leave_it_at_its_start():
    held = Held()
    held.learn(0, features(0, 2))
    held.settle(2, torch.tensor([1.0]))
    held.outputs.append(torch.tensor([2.0]))
    held.forget_draft()
    assert held.outputs == [torch.tensor([1.0])]
    held.learn(1, features(1, 2))
    assert held.outputs == [torch.tensor([1.0])]
    held.learn(2, features(2, 3))
    assert held.outputs == []


def test_a_hole_is_for_ever():
    held = Held()
    held.learn(0, features(0, 2))
    held.learn(3, features(3, 4))
    assert (held.is_torn, held.waiting, held.is_ready(3)) == (True, [], False)
    held.learn(0, features(0, 4))
    assert (held.waiting, held.is_ready(5)) == ([], False)
