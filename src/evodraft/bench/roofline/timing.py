"""Seconds of a function, on processors and accelerators. Does not know what it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

import torch

Action = Callable[[], object]
Timer = Callable[[Action], float]
"""Runs a function to its end, the accelerator's work included, and returns its seconds."""

Name = TypeVar("Name", bound=Hashable)
_LEAST_REPEATS = 3


def timer_for(device: torch.device) -> Timer:
    """Events on CUDA, which do not count the wait for the processor to notice the end; else the wall clock."""
    return _event_seconds if device.type == "cuda" else _wall_seconds


def median_ms(
    actions: Mapping[Name, Action], timer: Timer, repeats: int, max_s: float = float("inf")
) -> dict[Name, float]:
    """Median milliseconds of each action, after one uncounted run of each.

    They take turns, so that drift of the machine hits all alike. Ends early when `max_s` seconds were measured and
    every action had three turns.

    >>> ticks = iter([9.0, 1.0, 3.0, 2.0])
    >>> median_ms({"read": lambda: None}, lambda action: next(ticks), repeats=3)
    {'read': 2000.0}
    """
    for action in actions.values():
        timer(action)
    seconds: dict[Name, list[float]] = {name: [] for name in actions}
    for turn in range(max(repeats, _LEAST_REPEATS)):
        if turn >= _LEAST_REPEATS and sum(map(sum, seconds.values())) >= max_s:
            break
        for name, action in actions.items():
            seconds[name].append(timer(action))
    return {name: 1e3 * median(taken) for name, taken in seconds.items()}


def _wall_seconds(action: Action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _event_seconds(action: Action) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3
