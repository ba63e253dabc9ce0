"""Medians in turns, and both clocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evodraft.bench.roofline.timing import median_ms, timer_for


def _timer(seconds: dict[str, list[float]]) -> tuple[Callable[[Callable[[], object]], float], list[str]]:
    """A timer that knows beforehand what each action takes, and the order in which it was asked."""
    asked: list[str] = []

    def time(action: Callable[[], object]) -> float:
        asked.append(str(action()))
        return seconds[asked[-1]].pop(0)

    return time, asked


def test_actions_take_turns_after_one_uncounted_run_of_each() -> None:
    timer, asked = _timer({"a": [9.0, 1.0, 3.0, 2.0], "b": [9.0, 5.0, 4.0, 6.0]})
    assert median_ms({1: lambda: "a", 2: lambda: "b"}, timer, repeats=3) == {1: 2000.0, 2: 5000.0}
    assert asked == ["a", "b"] * 4


@pytest.mark.parametrize(("repeats", "num_runs"), [(1, 4), (5, 6), (50, 11)])
def test_it_ends_with_the_repeats_or_the_seconds_but_not_before_three(repeats: int, num_runs: int) -> None:
    timer, asked = _timer({"a": [1.0] * 100})
    median_ms({1: lambda: "a"}, timer, repeats=repeats, max_s=10.0)
    assert len(asked) == num_runs
    timer, asked = _timer({"a": [1.0] * 100})
    median_ms({1: lambda: "a"}, timer, repeats=50, max_s=0.5)
    assert len(asked) == 4


def test_the_wall_clock_spans_the_action(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    done: list[int] = []
    assert timer_for(torch.device("cpu"))(lambda: done.append(1)) == 2.5
    assert done == [1]


def test_events_span_the_action_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("record")

        def elapsed_time(self, end: Event) -> float:
            calls.append("elapsed")
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    assert timer_for(torch.device("cuda"))(lambda: calls.append("action")) == 1.5
    assert calls == ["wait", "record", "action", "record", "wait", "elapsed"]
