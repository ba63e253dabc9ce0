"""Scores of a head, depth by depth."""

from __future__ import annotations

import pytest
import torch

from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model
from evodraft.training.head_score import depth_means, draft_rows, score_head
from evodraft.training.rollout import Scores


def test_means_are_taken_depth_by_depth() -> None:
    scores = Scores(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.5, 0.7, 0.1]), torch.tensor([True, False, True]))
    means = depth_means(torch.tensor([0, 0, 2]), scores, 3)
    assert means.divergence == (2.0, 0.0, 5.0)
    assert means.overlap == (0.6, 0.0, 0.1)
    assert means.agreement == (0.5, 0.0, 1.0)


def test_the_score_is_of_all_rows_whatever_the_batches() -> None:
    target = tiny_model("qwen3")
    head = tiny_head(target)
    rows = torch.randint(64, (11, 12), generator=torch.Generator().manual_seed(0))
    means = score_head(target, head, rows, 3)
    rollout, targets = draft_rows(target, head, rows, 3, torch.arange(12))
    logits_q = rollout.states @ targets.output.t()
    logits_p = (targets.states @ targets.output.t())[rollout.positions]
    agrees = (logits_p.argmax(-1) == logits_q.argmax(-1)).float()
    for depth in range(3):
        assert means.agreement[depth] == pytest.approx(float(agrees[rollout.depths == depth].mean()), abs=1e-4)
    assert all(0 < overlap < 1 for overlap in means.overlap)
