"""Noise made in C++ has the bits of the noise made by torch, so that a seed means the same everywhere."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.noise import native_uniform
from evodraft.sampling import hashed_uniform


def unused(key_words, ids):
    pytest.fail("these tensors lie in the processor's memory")


@pytest.mark.parametrize("num_ids", [1, 7, 5000])
@pytest.mark.parametrize("num_keys", [1, 3])
def test_bits(num_keys, num_ids):
    generator = torch.Generator().manual_seed(num_ids)
    words = torch.randint(-(2**31), 2**31, (num_keys, 2), generator=generator).to(torch.int32)
    ids = torch.randint(0, 2**31 - 1, (num_ids,), generator=generator).to(torch.int32)
    numbers = native_uniform(load_library(), unused)(words, ids)
    assert numbers.dtype == torch.float32
    assert torch.equal(numbers, hashed_uniform(words, ids))
    assert 0.0 < float(numbers.min()) <= float(numbers.max()) < 1.0


WORDS = torch.tensor([[7, -(2**31)], [-1, 2**31 - 1], [123456789, -987654321]], dtype=torch.int32)
IDS = torch.arange(0, 4000, 3, dtype=torch.int32)


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (WORDS, IDS[::2]),
        (WORDS, IDS.flip(0)),
        (WORDS, IDS[:1].expand(5)),
        (WORDS, IDS[7:]),
        (WORDS, IDS[:0]),
        (WORDS, IDS.long()),
        (WORDS, IDS.long()[::2] + 2**31 - 5),
        (WORDS, IDS[:50].to(torch.uint8)),
        (WORDS[::2], IDS),
        (WORDS.T.contiguous().T, IDS),
        (WORDS.repeat_interleave(2, dim=1)[:, ::2], IDS),
        (WORDS.long(), IDS),
        (WORDS.long()[::2], IDS.long()[::2]),
        (WORDS[:0], IDS),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)}-{tensor.stride()}-{tensor.dtype}",
)
def test_bits_of_any_layout_and_width(words, ids):
    before = words.clone(), ids.clone()
    numbers = native_uniform(load_library(), unused)(words, ids)
    assert numbers.dtype == torch.float32
    assert torch.equal(numbers, hashed_uniform(words, ids))
    assert torch.equal(words, before[0])
    assert torch.equal(ids, before[1])


@pytest.mark.parametrize(("words_on", "ids_on"), [("meta", "meta"), ("cpu", "meta"), ("meta", "cpu")])
def test_other_devices_are_left_to_torch(words_on, ids_on):
    given, expected = (WORDS.to(words_on), IDS.to(ids_on)), torch.empty(0)
    seen = []

    def otherwise(*tensors):
        seen.append(tensors)
        return expected

    assert native_uniform(load_library(), otherwise)(*given) is expected
    assert len(seen) == 1
    assert all(one is other for one, other in zip(seen[0], given, strict=True))


def test_the_defaults_of_torch_change_nothing():
    expected, before = hashed_uniform(WORDS, IDS), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            numbers = native_uniform(load_library(), unused)(WORDS, IDS)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(numbers, expected)
