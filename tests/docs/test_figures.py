"""README's figures are those of the committed results, for the bundle that is in the tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "benchmarks" / "results"
RESULTS: dict[str, Any] = json.loads((FOLDER / "demo.json").read_text(encoding="utf-8"))
FLOAT32: dict[str, Any] = json.loads((FOLDER / "demo_float32.json").read_text(encoding="utf-8"))
DOMAINS = ["general", "code", "law", "medicine", "math", "all"]


def _line(domain: str) -> str:
    """A line of README's table, as the results say it."""
    cells = [domain]
    for temperature in (0.0, 0.7):
        [row] = [r for r in RESULTS["rows"] if (r["domain"], r["temperature"]) == (domain, temperature)]
        cells += [f"{row['speed_up']:.2f}x", f"{row['mean_acceptance_length']:.2f}", f"{row['pooled_distinct_4']:.2f}"]
        cells += [f"{row['num_identical']}/{row['num_prompts']}"]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("domain", DOMAINS)
def test_readme_shows_the_committed_figures(domain: str) -> None:
    assert _line(domain) in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_figures_are_of_the_bundle_in_the_tree() -> None:
    manifest = json.loads((PROJECT / "demo/src/evodraft_demo/MANIFEST.json").read_text(encoding="utf-8"))
    assert RESULTS["bundle"] == FLOAT32["bundle"] == manifest


def test_in_float32_every_output_is_identical_as_readme_says() -> None:
    assert FLOAT32["settings"]["dtype"] == "float32"
    assert FLOAT32["differences"] == []
    assert all(row["num_identical"] == row["num_prompts"] > 0 for row in FLOAT32["rows"])
