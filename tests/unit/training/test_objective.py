"""Chunked losses against the plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from evodraft.training import objective
from evodraft.training.objective import chunked_cross_entropy, chunked_forward_kl


@pytest.fixture
def tensors(generator):
    states = torch.randn(11, 8, generator=generator, requires_grad=True)
    weight = torch.randn(29, 8, generator=generator, requires_grad=True)
    target_states = torch.randn(11, 5, generator=generator)
    target_weight = torch.randn(29, 5, generator=generator)
    return states, weight, target_states, target_weight


@pytest.fixture(params=[4, 256])
def chunk_rows(request, monkeypatch):
    monkeypatch.setattr(objective, "CHUNK_ROWS", request.param)


def gradients(loss, *leaves):
    return torch.autograd.grad(3.0 * loss, leaves)


@pytest.mark.usefixtures("chunk_rows")
def test_cross_entropy_and_its_gradients(tensors, generator):
    states, weight, _, _ = tensors
    labels = torch.randint(0, 29, (11,), generator=generator)
    fast, plain = chunked_cross_entropy(states, weight, labels), functional.cross_entropy(states @ weight.t(), labels)
    torch.testing.assert_close(fast, plain)
    for ours, theirs in zip(gradients(fast, states, weight), gradients(plain, states, weight), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("chunk_rows")
def test_forward_kl_and_its_gradients(tensors):
    states, weight, target_states, target_weight = tensors
    fast = chunked_forward_kl(states, weight, target_states, target_weight)
    log_p = (target_states @ target_weight.t()).log_softmax(-1)
    plain = functional.kl_div((states @ weight.t()).log_softmax(-1), log_p, log_target=True, reduction="batchmean")
    torch.testing.assert_close(fast, plain)
    for ours, theirs in zip(gradients(fast, states, weight), gradients(plain, states, weight), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_equal_laws_diverge_by_nothing(tensors):
    _, _, target_states, target_weight = tensors
    states = target_states.clone().requires_grad_()
    assert chunked_forward_kl(states, target_weight, target_states, target_weight).item() == pytest.approx(0, abs=1e-6)
