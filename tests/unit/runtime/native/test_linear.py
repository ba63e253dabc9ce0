"""One linear layer in C++ is the product that torch computes, to rounding; rows do not change each other's bits."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import CapacityError
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.linear import native_linear


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("columns", [1, 15, 16, 33, 96])
def test_products(generator, rows, columns, has_bias, dtype):
    """Sizes that fill no vector, from an address that is aligned to nothing."""
    memory = torch.randn(rows * columns + 1, generator=generator).to(dtype)
    weight = memory[1:].view(rows, columns)
    bias = torch.randn(rows, generator=generator).to(dtype) if has_bias else None
    linear = native_linear(load_library(), weight, bias)
    states = torch.randn(2, 3, columns, generator=generator)
    expected = torch.nn.functional.linear(
        states.to(dtype).double(), weight.double(), None if bias is None else bias.double()
    )
    results = linear(states)
    assert results.dtype == torch.float32
    torch.testing.assert_close(results.double(), expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(linear(states[:1, 2:]), results[:1, 2:])
    assert linear(states[:0]).shape == (0, 3, rows)


def test_the_callers_default_type_does_not_matter(generator):
    linear = native_linear(load_library(), torch.randn(5, 4, generator=generator), None)
    states = torch.randn(3, 4, generator=generator)
    expected = linear(states)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(linear(states), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_exhausted_memory_has_a_name(generator):
    class Short:
        def linear(self, *places, **options):
            return False

    with pytest.raises(CapacityError, match="product of 3 tokens; lower max_batch"):
        native_linear(Short(), torch.ones(5, 4), None)(torch.ones(3, 4))
