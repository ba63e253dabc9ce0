"""The script for machines with an accelerator, tried on the CPU at a small size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from evodraft.bench.contestants import Answer, Outcome, Profile

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


NOTE = "random weights in the shape of tiny"


def result_of(step: str, tmp_path: Path, campaign: dict[str, Any], *options: str) -> dict[str, Any]:
    """What a step on the smallest shape wrote."""
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--only", step, "--shape", "tiny", *options]
    assert campaign["main"](arguments) == 0, (tmp_path / f"{step}.json").read_text(encoding="utf-8")
    result: dict[str, Any] = json.loads((tmp_path / f"{step}.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture
def runtimes(campaign: dict[str, Any]) -> list[str]:
    return list(campaign["runtimes"]())


def test_plain_decoding_of_a_shape_stands_beside_its_limit(
    tmp_path: Path, campaign: dict[str, Any], runtimes: list[str]
) -> None:
    result = result_of("plain_8b", tmp_path, campaign, "--max-new-tokens", "12")
    assert result["synthetic"] == result["roofline"]["model"]["synthetic"] == NOTE
    assert result["limits_ms"] == {"measured": result["roofline"]["target"]["limit_ms"]}  # no peak is known of a CPU
    assert [cost["contestant"] for cost in result["plain"]] == ["generate", *runtimes]
    for cost in result["plain"]:
        assert (cost["note"], cost["num_prompts"]) == (NOTE, 5)
        assert cost["over_limit"]["measured"] == cost["ms_per_token"] / result["limits_ms"]["measured"]
    assert result["plain"][0]["speed_up"] == 1.0


def test_forced_acceptance_of_a_shape_is_measured_by_every_runtime(
    tmp_path: Path, campaign: dict[str, Any], runtimes: list[str]
) -> None:
    result = result_of("forced_8b", tmp_path, campaign, "--max-new-tokens", "12")
    assert result["synthetic"] == NOTE
    assert list(result["forced"]) == runtimes
    for costs in result["forced"].values():
        assert [(cost["batch_size"], cost["rate"]) for cost in costs] == [
            *((1, None), (1, 0.6), (1, 0.8)),
            *((8, None), (8, 0.6), (8, 0.8)),
        ]
        assert all(cost["note"].startswith(NOTE) and cost["tokens_per_s"] > 0 for cost in costs)
    assert result["full_depth"]["num_full_layers"] == 4


def test_heads_of_large_vocabularies(tmp_path: Path, campaign: dict[str, Any]) -> None:
    heads = result_of("heads", tmp_path, campaign)["heads"]
    assert [(head["vocab_size"], head["num_tokens"]) for head in heads] == [
        *((128_256, 1), (128_256, 6)),
        *((151_936, 1), (151_936, 6)),
    ]
    assert {head["hidden_size"] for head in heads} == {32}


def test_drafts_of_a_head_are_measured_by_slice_and_form(tmp_path: Path, campaign: dict[str, Any]) -> None:
    result = result_of("eagle_8b", tmp_path, campaign, "--max-new-tokens", "12")
    assert result["synthetic"] == NOTE
    assert result["head_parameters"] > 0
    forms = [f"{form}, {ids}" for form in ("drawn chain", "grown chain", "tree") for ids in ("all ids", "a quarter")]
    for size in (1, 8):
        costs = result["drafts"][f"batch {size}"]
        assert list(costs) == ["plain", *forms]
        assert all(cost["note"].startswith(NOTE) and cost["tokens_per_s"] > 0 for cost in costs.values())
        assert costs["plain"]["num_drafted"] == 0
        assert all(0 < costs[form]["num_drafted"] <= 5 and costs[form]["num_accepted"] > 1 for form in forms[:4])
        assert all(costs[form]["num_drafted"] > 5 for form in forms[4:])  # nodes


def test_a_head_is_trained_on_answers_that_were_carried_here(tmp_path: Path, campaign: dict[str, Any]) -> None:
    generated = tmp_path / "generated"
    generated.mkdir()
    lines = [{"domain": "math", "prompt": [number, 3], "response": list(range(40))} for number in range(120)]
    (generated / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    options = ["--generated", str(generated), "--minutes", "0.0001", "--batch", "1"]
    result = result_of("train_head", tmp_path, campaign, *options)
    assert result["provenance"]["num_tokens"] == 256  # of one step
    assert 0 <= result["provenance"]["held_out"]["math"]["overlap"][0] <= 1
    assert (tmp_path / "eagle" / "model.safetensors").is_file()


def test_a_method_that_fails_is_named(campaign: dict[str, Any]) -> None:
    class Failing:
        profile = Profile("tree", "method", {}, is_exact=True)

        def generate(self, asks: object) -> Outcome:
            return Outcome((Answer((), error="no room"),), request_s=1.0, decode_s=1.0)

    with pytest.raises(RuntimeError, match="tree: no room"):
        campaign["rounds_of"](Failing(), [], 1)


def test_there_is_a_step_for_everything_that_is_asked_of_an_accelerator(campaign: dict[str, Any]) -> None:
    models = ["plain_8b", "forced_8b", "heads", "eagle_8b"]
    assert list(campaign["STEPS"]) == ["tests", "decoding", "roofline", *models, "train_head"]


def test_a_failing_step_is_reported_and_the_next_one_runs(tmp_path: Path, campaign: dict[str, Any]) -> None:
    def fails(settings: object) -> dict[str, object]:
        raise RuntimeError("no such device")

    steps = {"tests": fails, "decoding": lambda settings: {"exit_code": 0}}
    campaign["main"].__globals__["STEPS"] = steps
    assert campaign["main"](["--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "no such device" in json.loads((tmp_path / "tests.json").read_text(encoding="utf-8"))["error"]
    assert json.loads((tmp_path / "decoding.json").read_text(encoding="utf-8"))["exit_code"] == 0
