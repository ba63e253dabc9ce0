"""Packed products are the plain ones; what cannot be packed is said before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evodraft.runtime import packing
from evodraft.runtime.packing import packed_linear, packing_problem, plain_linear


def random_layer(dtype, bias, rows=48, columns=32):
    generator = torch.Generator().manual_seed(3)
    weight, offset = torch.randn(rows, columns, generator=generator), torch.randn(rows, generator=generator)
    return weight.to(dtype), offset.to(dtype) if bias else None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 5), (1, 40)])
def test_packed_is_plain_within_rounding(dtype, tolerance, bias, shape):
    weight, offset = random_layer(dtype, bias)
    if (problem := packing_problem(weight)) is not None:
        pytest.skip(problem)
    states = torch.randn(*shape, 2 * 32, generator=torch.Generator().manual_seed(4)).to(dtype)[..., :32]
    exact = torch.nn.functional.linear(states.double(), weight.double(), None if offset is None else offset.double())
    for make in (plain_linear, packed_linear):
        product = make(weight, offset)(states)
        assert product.dtype == dtype
        torch.testing.assert_close(product.double(), exact, atol=4 * tolerance, rtol=tolerance)


def test_packed_weights_do_not_belong_to_inference_mode_or_to_a_graph():
    weight = torch.nn.Parameter(random_layer(torch.float32, False)[0])
    with torch.inference_mode():
        linear = packed_linear(weight, None)
    product = linear(torch.ones(1, 32))
    assert not product.is_inference()
    assert not product.requires_grad


def test_a_packed_weight_is_a_copy():
    weight, _ = random_layer(torch.float32, False)
    packed, plain = packed_linear(weight, None), plain_linear(weight, None)
    before = packed(torch.ones(1, 32))
    weight.zero_()
    assert torch.equal(packed(torch.ones(1, 32)), before)
    assert not plain(torch.ones(1, 32)).any()


def test_no_order_of_onednn_elsewhere():
    assert packing_problem(torch.empty(2, 2, device="meta")) == "oneDNN's order is for processors, not for meta"


def test_a_build_without_onednn(monkeypatch):
    monkeypatch.setattr(packing.torch.backends.mkldnn, "is_available", lambda: False)
    assert packing_problem(torch.ones(1)) == "this build of torch has no oneDNN"


def test_a_wrong_product_is_noticed(monkeypatch):
    monkeypatch.setattr(packing, "packed_linear", lambda weight, bias: lambda states: states)
    assert packing_problem(torch.ones(1)) == "oneDNN's product came out wrong"


def test_another_signature_is_noticed(monkeypatch):
    operators = SimpleNamespace(mkldnn=SimpleNamespace(_reorder_linear_weight=lambda weight: weight))
    monkeypatch.setattr(packing.torch, "ops", operators)
    assert packing_problem(torch.ones(1)).startswith("oneDNN refuses float32: ")
