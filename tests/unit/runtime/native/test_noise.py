"""Noise made in C++ has the bits of the noise made by torch, so that a seed means the same everywhere."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.noise import native_uniform
from evodraft.sampling import hashed_uniform


@pytest.mark.parametrize("num_ids", [1, 7, 5000])
@pytest.mark.parametrize("num_keys", [1, 3])
def test_bits(num_keys, num_ids):
    generator = torch.Generator().manual_seed(num_ids)
    words = torch.randint(-(2**31), 2**31, (num_keys, 2), generator=generator).to(torch.int32)
    ids = torch.randint(0, 2**31 - 1, (num_ids,), generator=generator).to(torch.int32)
    numbers = native_uniform(load_library())(words, ids)
    assert numbers.dtype == torch.float32
    assert torch.equal(numbers, hashed_uniform(words, ids))
    assert 0.0 < float(numbers.min()) <= float(numbers.max()) < 1.0
