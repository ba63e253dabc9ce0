"""Held-out losses and repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from evodraft.training.evaluate import StreamLoss, distinct_share, domain_losses, stream_losses


def test_stream_loss_is_the_mean_over_whole_windows(model):
    ids = np.arange(5, 38, dtype=np.uint16)
    loss = stream_losses(model, {"a.text.x": ids}, context=16)["a.text.x"]
    rows = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        logits = model(rows[:32].view(2, 16)).logits.flatten(0, 1)
    assert loss.num_tokens == 32
    assert loss.nats == pytest.approx(functional.cross_entropy(logits, rows[1:33]).item(), rel=1e-4)
    assert loss.perplexity == pytest.approx(math.exp(loss.nats))


def test_short_streams_use_a_shorter_window_and_empty_ones_none(model):
    streams = {"a.text.x": np.arange(5, 9, dtype=np.uint16), "a.text.y": np.zeros(1, dtype=np.uint16)}
    losses = stream_losses(model, streams, context=16)
    assert list(losses) == ["a.text.x"]
    assert losses["a.text.x"].num_tokens == 3


def test_domains_average_over_tokens():
    losses = {"a.text.x": StreamLoss(1.0, 30), "a.chat.y": StreamLoss(2.0, 10), "b.text.x": StreamLoss(5.0, 1)}
    assert domain_losses(losses) == {"a": StreamLoss(1.25, 40), "b": StreamLoss(5.0, 1)}


@pytest.mark.parametrize(
    ("sequences", "share"),
    [([[1, 2, 3, 4, 5]], 1.0), ([[1, 1, 1, 1, 1, 1, 1]], 0.25), ([[1, 2]], 1.0), ([[1] * 5, [1, 2, 3, 4, 5]], 0.75)],
)
def test_distinct_share(sequences, share):
    assert distinct_share(sequences) == share
