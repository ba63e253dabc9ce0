"""A roofline with round figures. None of them was measured."""

from __future__ import annotations

import pytest

from evodraft.bench.result import MachineRecord, ModelRecord
from evodraft.bench.roofline import KernelSpeed, Limit, PassCost, ReadBytes, Roofline


@pytest.fixture
def roofline() -> Roofline:
    """The target reads 100 MB at 10 GB/s, the draft 10 MB: 10 ms and 1 ms. Plain decoding takes 20 ms."""
    kernels = (KernelSpeed("linear", 18.0, 5.0), KernelSpeed("prepacked", 9.0, 10.0))
    return Roofline(
        model=ModelRecord("models/big", None, 50_000_000, "bfloat16", None),
        date="2026-01-02",
        commit="abc",
        machine=MachineRecord("A processor", ("avx2",), 2, 1, None, 8.0),
        versions={"torch": "2"},
        context=128,
        repeats=15,
        target=Limit(ReadBytes(70_000_000, 20_000_000, 1_000_000, 9_000_000), kernels, {"stacked": "no room"}),
        plain_ms=20.0,
        passes=(PassCost(1, 19.0), PassCost(2, 20.0), PassCost(6, 24.0)),
        cache_bytes=32_000_000,
        draft=Limit(ReadBytes(8_000_000, 2_000_000, 0, 0), kernels, {}),
        draft_step_ms=2.0,
    )
