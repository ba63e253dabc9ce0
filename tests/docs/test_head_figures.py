"""The figures of the demo's heads on docs/models.md are those of the committed measurement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evodraft.drafters.eagle.config import BUNDLED_HEADS

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "models.md").read_text(encoding="utf-8")
MODELS = json.loads((PROJECT / "benchmarks" / "results" / "models.json").read_text(encoding="utf-8"))
BUNDLE = PROJECT / "demo" / "src" / "evodraft_demo"
DOMAINS = ["general", "code", "law", "medicine", "math"]
DEPTHS = [0, 2, 4]


def _lines(heads: dict[str, Any]) -> Iterator[str]:
    """As the page has them; copy what is missing from a failure of the test below."""
    for head, measured in heads.items():
        for domain in DOMAINS:
            cells = [head, domain, f"{measured['text'][domain]['overlap'][0]:.2f}"]
            for score in ("overlap", "agreement"):
                means = measured["answers"].get(domain, {}).get(score)
                cells.append("–" if means is None else " / ".join(f"{means[depth]:.2f}" for depth in DEPTHS))
            yield f"| {' | '.join(cells)} |"


def _missing(heads: dict[str, Any], page: str) -> list[str]:
    return [line for line in _lines(heads) if line not in page]


def test_the_page_shows_every_head_that_was_measured() -> None:
    assert _missing(MODELS.get("heads", {}), PAGE) == []


def test_no_head_is_shown_that_was_not_measured() -> None:
    section = PAGE.partition("| head | domain |")[2].partition("\n\n")[0]
    assert section.count("\n") - 1 == len(MODELS.get("heads", {})) * len(DOMAINS)


def test_heads_are_measured_once_they_are_bundled() -> None:
    bundled = {name for name in BUNDLED_HEADS.values() if (BUNDLE / name).is_dir()}
    assert set(MODELS.get("heads", {})) == bundled


def test_a_missing_line_is_found() -> None:
    scores = {"overlap": [0.5, 0.4, 0.3, 0.2, 0.1], "agreement": [0.9, 0.8, 0.7, 0.6, 0.5]}
    heads = {"eagle": {"text": dict.fromkeys(DOMAINS, scores), "answers": {"math": scores}}}
    assert "| eagle | math | 0.50 | 0.50 / 0.30 / 0.10 | 0.90 / 0.70 / 0.50 |" in _missing(heads, "")
    assert "| eagle | law | 0.50 | – | – |" in _missing(heads, "")
