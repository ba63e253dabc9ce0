"""Measured with a clock that always says the same, and once with the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from evodraft.assemble import LoadedTarget
from evodraft.bench.roofline import measure, measure_roofline
from evodraft.bench.roofline.kernels import KERNELS
from evodraft.bench.roofline.passes import Passes, pass_costs, plain_ms, scoring
from evodraft.errors import BenchError, NumericsError
from evodraft.testing.tiny import tiny_model


def _millisecond(action: Callable[[], object]) -> float:
    action()
    return 1e-3


def _target(**changes: Any) -> LoadedTarget:
    return LoadedTarget(tiny_model("llama", **changes), None)


def test_figures_follow_from_the_clock() -> None:
    draft = tiny_model("llama", num_hidden_layers=1)
    found = measure_roofline(
        _target(),
        draft,
        context=40,
        repeats=3,
        mean_acceptance_length=2.0,
        num_draft_tokens=2,
        synthetic="tiny",
        timer=_millisecond,
    )
    swept = found.target.read_bytes.matrices + found.target.read_bytes.head
    assert found.target.best.gb_per_s == pytest.approx(swept / 1e-3 / 1e9)
    assert found.target.limit_ms == pytest.approx(found.target.read_bytes.total / swept)
    assert found.target.read_bytes.cache == 40 * 256
    assert found.plain_ms == pytest.approx(1.0)
    assert [cost.num_tokens for cost in found.passes] == [1, 2, 3, 4, 8]
    assert [cost.ms for cost in found.passes] == pytest.approx([1.0] * 5)
    assert found.draft is not None
    assert found.draft.read_bytes.total < found.target.read_bytes.total
    assert found.draft_step_ms == pytest.approx(1.0)
    assert found.speculation is not None
    assert found.speculation.expected_speed_up == pytest.approx(2 / 3)
    assert (found.model.synthetic, found.model.dtype) == ("tiny", "float32")


def test_with_the_real_clock_every_figure_is_positive() -> None:
    found = measure_roofline(_target(), context=8, repeats=3)
    assert found.plain_ms > 0
    assert found.target.limit_ms > 0
    assert all(cost.ms > 0 for cost in found.passes)
    assert found.draft is None
    assert found.speculation is None


def test_kernels_without_room_for_copies_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = measure.read_machine(torch.device("cpu"))
    monkeypatch.setattr(measure, "read_machine", lambda device: replace(machine, free_bytes=10))
    found = measure_roofline(_target(), context=8, repeats=3, timer=_millisecond)
    assert [kernel.name for kernel in found.target.kernels] == [
        name for name, kernel in KERNELS.items() if kernel.num_copies == 0
    ]
    assert set(found.target.left_out) == {name for name, kernel in KERNELS.items() if kernel.num_copies > 0}


@pytest.mark.parametrize("context", [0, 240, 5000])
def test_a_context_that_cannot_be_is_refused_before_anything_is_measured(context: int) -> None:
    with pytest.raises(BenchError, match=f"a context of {context} tokens.*take 1 to 229"):
        measure_roofline(_target(), context=context, timer=lambda action: pytest.fail("measured"))


def test_an_acceptance_length_that_cannot_be_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(BenchError, match="cannot be"):
        measure_roofline(
            _target(), mean_acceptance_length=9.0, num_draft_tokens=2, timer=lambda action: pytest.fail("measured")
        )


def test_passes_leave_the_context_as_it_was_and_read_it_in_chunks() -> None:
    seen: list[tuple[int, ...]] = []
    model = tiny_model("llama", max_position_embeddings=1200)
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    actions = scoring(model, [1, 4], context=1030)
    assert seen[-3:] == [(1, 512), (1, 512), (1, 6)]
    for _ in range(3):
        actions[4]()
        actions[1]()
    assert seen[-2:] == [(1, 4), (1, 1)]


def test_widths_are_measured_once_each_and_in_order() -> None:
    passes = Passes(context=4, repeats=3, max_s=1.0, timer=_millisecond)
    assert [cost.num_tokens for cost in pass_costs(tiny_model("llama"), [4, 1, 4], passes)] == [1, 4]


def test_plain_decoding_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    target = _target()
    passes = Passes(context=4, repeats=3, max_s=1.0, timer=_millisecond)
    module = "evodraft.runtime.hf.check_model"
    monkeypatch.setattr(module, lambda model, facts: facts)  # it would find the NaN before
    with torch.no_grad():
        target.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="NaN"):
        plain_ms(target, passes)
