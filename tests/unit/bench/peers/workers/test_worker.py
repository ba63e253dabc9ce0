"""The loop that every worker shares, in this process: what tests with a real worker cannot see."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from evodraft.bench.peers.workers.worker import cut, peak_bytes, serve


class Runner:
    label = "fake"

    def __init__(self) -> None:
        self.versions = {"fake": "1"}
        self.calls: list[str] = []

    def generate(self, asks: list[dict[str, Any]]) -> dict[str, Any]:
        sys.stdout.write("noise\n")
        return {"answers": [1 / ask["divisor"] for ask in asks]}

    def reset(self) -> None:
        self.calls.append("reset")

    def resident_bytes(self) -> int:
        return 123

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def standard_output(capfd: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """`serve` points standard output at standard error for good; here it is put back."""
    kept = os.dup(1)
    yield capfd
    os.dup2(kept, 1)
    os.close(kept)


def serve_all(monkeypatch: pytest.MonkeyPatch, runner: Runner, *requests: dict[str, Any]) -> None:
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    serve(lambda request: runner)


def test_replies_come_in_order_and_errors_do_not_end_it(
    monkeypatch: pytest.MonkeyPatch, standard_output: pytest.CaptureFixture[str]
) -> None:
    runner = Runner()
    serve_all(
        monkeypatch,
        runner,
        {"op": "load"},
        {"op": "generate", "asks": [{"divisor": 0}]},
        {"op": "generate", "asks": [{"divisor": 2}]},
        {"op": "reset"},
        {"op": "memory"},
        {"op": "close"},
        {"op": "reset"},
    )
    seen = standard_output.readouterr()
    replies = [json.loads(line) for line in seen.out.splitlines() if line.startswith("{")]
    assert replies == [
        {"versions": {"fake": "1"}, "label": "fake"},
        {"error": "ZeroDivisionError: division by zero"},
        {"answers": [0.5]},
        {},
        {"resident_bytes": 123},
        {},
    ]
    assert runner.calls == ["reset", "close"]
    assert "Traceback" in seen.err


def test_the_end_of_input_ends_it_too(
    monkeypatch: pytest.MonkeyPatch, standard_output: pytest.CaptureFixture[str]
) -> None:
    runner = Runner()
    serve_all(monkeypatch, runner, {"op": "load"})
    assert runner.calls == ["close"]


def test_cut_keeps_the_first_stop_token() -> None:
    assert cut([5, 0, 7, 0], [0, 9]) == [5, 0]
    assert cut([5, 7], [0]) == [5, 7]
    assert cut([], [0]) == []


def test_peak_is_that_of_this_process() -> None:
    assert peak_bytes() > 10 << 20
