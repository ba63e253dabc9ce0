"""Held-out losses and repetition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from evodraft.training.evaluate import (
    StreamLoss,
    distinct_share,
    domain_losses,
    exit_losses,
    position_losses,
    stream_losses,
)


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


def token_losses(model, ids, context):
    """Per-position losses of whole rows, from the library's own forward pass."""
    rows = torch.from_numpy(ids.astype(np.int64))
    num_rows = (len(rows) - 1) // context
    inputs, labels = rows[: num_rows * context].view(-1, context), rows[1 : num_rows * context + 1].view(-1, context)
    with torch.no_grad():
        logits = model(inputs).logits
    return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")


def test_position_losses_average_the_same_rows_at_every_position(model):
    generator = np.random.default_rng(0)
    streams = {f"a.text.{n}": generator.integers(5, 300, n).astype(np.uint16) for n in (40, 70, 10)}
    expected = torch.cat([token_losses(model, streams[f"a.text.{n}"], 16) for n in (40, 70)]).mean(0)
    losses = position_losses(model, streams, edges=(0, 4, 16))
    assert losses == {
        "0-3": pytest.approx(expected[:4].mean().item(), rel=1e-4),
        "4-15": pytest.approx(expected[4:].mean().item(), rel=1e-4),
    }


def test_without_a_whole_row_there_are_no_position_losses(model):
    assert position_losses(model, {"a.text.x": np.arange(5, 15, dtype=np.uint16)}, edges=(0, 64)) == {}


def test_the_last_exit_is_the_model_and_earlier_ones_are_their_own(model):
    ids = np.arange(5, 70, dtype=np.uint16)
    losses = exit_losses(model, {"a.text.x": ids}, [1, 2], context=16)
    assert losses[2] == pytest.approx(token_losses(model, ids, 16).mean().item(), rel=1e-4)
    assert losses[1] != pytest.approx(losses[2], rel=1e-4)
