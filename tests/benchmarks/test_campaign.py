"""The script for machines with an accelerator, tried on the CPU at a small size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "campaign.py"


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path(str(SCRIPT))


def test_decoding_is_measured_for_every_precision_and_controller(tmp_path: Path, campaign: dict[str, Any]) -> None:
    options = ["--device", "cpu", "--only", "decoding", "--max-new-tokens", "2", "--prompts-per-domain", "1"]
    assert campaign["main"](["--out", str(tmp_path), *options]) == 0
    result = json.loads((tmp_path / "decoding.json").read_text(encoding="utf-8"))
    assert result["seconds"] > 0
    for dtype in ("float32", "bfloat16"):
        for controller in ("fixed:3", "confidence"):
            assert [row["num_prompts"] for row in result[f"{dtype} {controller}"]["rows"]] == [5, 5]


def test_a_failing_step_is_reported_and_the_next_one_runs(tmp_path: Path, campaign: dict[str, Any]) -> None:
    def fails(settings: object) -> dict[str, object]:
        raise RuntimeError("no such device")

    steps = {"tests": fails, "decoding": lambda settings: {"exit_code": 0}}
    campaign["main"].__globals__["STEPS"] = steps
    assert campaign["main"](["--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "no such device" in json.loads((tmp_path / "tests.json").read_text(encoding="utf-8"))["error"]
    assert json.loads((tmp_path / "decoding.json").read_text(encoding="utf-8"))["exit_code"] == 0
