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


def test_rooflines_of_the_demo_are_measured_in_both_precisions(tmp_path: Path, campaign: dict[str, Any]) -> None:
    assert campaign["main"](["--out", str(tmp_path), "--device", "cpu", "--only", "roofline"]) == 0
    result = json.loads((tmp_path / "roofline.json").read_text(encoding="utf-8"))
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        measured = result[dtype]
        assert measured["model"]["dtype"] == dtype
        assert measured["target"]["read_bytes"]["head"] % width == 0
        assert measured["draft_step_ms"] > 0
        assert measured["over_limit"] == measured["plain_ms"] / measured["target"]["limit_ms"]
    heads = [result[dtype]["target"]["read_bytes"]["head"] for dtype in ("float32", "bfloat16")]
    assert heads[0] == 2 * heads[1]


def test_costs_of_a_shape_are_marked_synthetic(tmp_path: Path, campaign: dict[str, Any]) -> None:
    options = ["--device", "cpu", "--only", "shape_8b", "--shape", "tiny", "--max-new-tokens", "12"]
    assert campaign["main"](["--out", str(tmp_path), *options]) == 0
    result = json.loads((tmp_path / "shape_8b.json").read_text(encoding="utf-8"))
    assert result["synthetic"] == result["roofline"]["model"]["synthetic"] == "random weights in the shape of tiny"
    assert [(cost["batch_size"], cost["rate"]) for cost in result["forced"]] == [
        *((1, None), (1, 0.6), (1, 0.8)),
        *((8, None), (8, 0.6), (8, 0.8)),
    ]
    assert all(cost["note"].startswith(result["synthetic"]) and cost["tokens_per_s"] > 0 for cost in result["forced"])
    assert result["full_depth"]["num_full_layers"] == 4
    assert [(head["vocab_size"], head["num_tokens"]) for head in result["heads"]] == [
        *((128_256, 1), (128_256, 6)),
        *((151_936, 1), (151_936, 6)),
    ]


def test_a_failing_step_is_reported_and_the_next_one_runs(tmp_path: Path, campaign: dict[str, Any]) -> None:
    def fails(settings: object) -> dict[str, object]:
        raise RuntimeError("no such device")

    steps = {"tests": fails, "decoding": lambda settings: {"exit_code": 0}}
    campaign["main"].__globals__["STEPS"] = steps
    assert campaign["main"](["--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "no such device" in json.loads((tmp_path / "tests.json").read_text(encoding="utf-8"))["error"]
    assert json.loads((tmp_path / "decoding.json").read_text(encoding="utf-8"))["exit_code"] == 0
