"""Figures in the documentation are those of the committed results, for the bundle that is in the tree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evodraft.runtime.integrity import record_of

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "benchmarks" / "results"
MANIFEST = PROJECT / "demo/src/evodraft_demo/MANIFEST.json"
DOMAINS = ["general", "code", "law", "medicine", "math"]


def _results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


RESULTS, FLOAT32, MODELS = _results("demo.json"), _results("demo_float32.json"), _results("models.json")


def _text(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _speed_line(domain: str) -> str:
    cells = [domain]
    for temperature in (0.0, 0.7):
        [row] = [r for r in RESULTS["rows"] if (r["domain"], r["temperature"]) == (domain, temperature)]
        cells += [f"{row['median_speed_up']:.2f}x", f"{row['mean_acceptance_length']:.2f}"]
        cells += [f"{row['pooled_distinct_4']:.2f}", f"{row['num_identical']}/{row['num_prompts']}"]
    return _line(*cells)


def _model_line(domain: str) -> str:
    target, draft, fit = MODELS["target"], MODELS["draft"], MODELS["fit"][domain]
    loss = target["losses"][domain]
    return _line(
        domain,
        f"{loss['num_tokens']:,}",
        f"{loss['nats']:.2f}",
        f"{math.exp(loss['nats']):.1f}",
        f"{math.exp(draft['losses'][domain]['nats']):.1f}",
        f"{target['repetition'][domain]['distinct_4']:.2f}",
        f"{fit['kl']:.2f}",
        f"{fit['overlap']:.2f}",
    )


@pytest.mark.parametrize("domain", [*DOMAINS, "all"])
def test_readme_shows_the_committed_speeds(domain: str) -> None:
    assert _speed_line(domain) in _text("README.md")


@pytest.mark.parametrize("page", ["docs/models.md", "demo/MODEL_CARD.md"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_models_pages_show_the_committed_losses(page: str, domain: str) -> None:
    assert _model_line(domain) in _text(page)


def test_the_models_page_shows_positions_exits_tasks_and_costs() -> None:
    page, target, draft = _text("docs/models.md"), MODELS["target"], MODELS["draft"]
    lines = [
        _line(span, f"{nats:.2f}", f"{draft['position_losses'][span]:.2f}")
        for span, nats in target["position_losses"].items()
    ]
    lines += [_line(depth, f"{nats:.2f}") for depth, nats in target["exits"].items()]
    lines += [f"| `{task}` | {found['accuracy']:.0%} |" for task, found in target["tasks"].items()]
    lines += [
        _line(
            dtype.removeprefix("torch."), f"{cost['target_ms']:.2f}", f"{cost['draft_ms']:.2f}", f"{cost['ratio']:.2f}"
        )
        for dtype, cost in MODELS["cost"].items()
    ]
    assert [line for line in lines if line not in page] == []


def test_the_figures_are_of_the_bundle_in_the_tree() -> None:
    manifest, record = json.loads(MANIFEST.read_text(encoding="utf-8")), record_of(MANIFEST)
    assert RESULTS["bundle"] == FLOAT32["bundle"] == manifest
    assert record is not None
    assert MODELS["manifest_sha256"] == record.sha256


def test_in_float32_every_output_is_identical_as_readme_says() -> None:
    assert FLOAT32["settings"]["dtype"] == "float32"
    assert FLOAT32["differences"] == []
    assert all(row["num_identical"] == row["num_prompts"] > 0 for row in FLOAT32["rows"])
    medians = {(row["temperature"], row["domain"]): row["median_speed_up"] for row in FLOAT32["rows"]}
    greedy, sampled = (f"{medians[temperature, 'all']:.2f}x" for temperature in (0.0, 0.7))
    assert f"only {greedy}\nand {sampled}, in code, law and medicine at T=0.7 below 1" in _text("README.md")
    assert {domain for (_, domain), median in medians.items() if median < 1} == {"code", "law", "medicine"}
