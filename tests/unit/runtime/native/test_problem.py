"""Why the native code is not taken, in words; what it takes depends on device, type and compiler."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.native import problem
from evodraft.runtime.native.build import BuildError
from evodraft.runtime.native.problem import native_outlook, native_problem


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_speaks_against_the_types_it_has(dtype):
    assert native_problem(torch.empty(1, dtype=dtype)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types(dtype):
    assert native_problem(torch.empty(1, dtype=dtype)) == (
        f"the native step computes bfloat16 and float32, not {str(dtype).removeprefix('torch.')}"
    )


def test_other_devices():
    assert native_problem(torch.empty(1, device="meta")) == "the native step is for processors, not for meta"


def test_what_the_compiler_says_is_the_reason(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (native_problem(torch.empty(1)) or "")


def test_a_library_that_cannot_be_loaded_is_a_reason(monkeypatch):
    def load():
        raise BuildError("the compiled step cannot be loaded")

    monkeypatch.setattr(problem, "load_library", load)
    assert native_problem(torch.empty(1)) == "the compiled step cannot be loaded"


def test_asking_may_be_cheaper_than_compiling(monkeypatch):
    monkeypatch.setattr(problem, "load_library", lambda: pytest.fail("compiled"))
    assert native_problem(torch.empty(1), lambda: None) is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512_bf16"}, "products by avx512_bf16"), (set(), "products in float32, for want of avx512_bf16")],
)
def test_the_outlook_names_the_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(problem, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(problem, "library_state", lambda: "compiled already")
    assert expected in native_outlook(torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        assert "compiled already" in native_outlook(dtype)
    assert expected not in native_outlook(torch.float32)
