"""A suite of random token ids on a tiny pair, so that a whole run takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evodraft.assemble import LoadedTarget
from evodraft.bench.plan import Order
from evodraft.bench.prompts import collect
from evodraft.bench.suites import load_suite
from evodraft.testing.pairs import tiny_pair

TOML = """
about = "tiny"
groups = ["random"]
prompts_per_group = 2
max_new_tokens = 12
repeats = 3

[[sources]]
kind = "random_ids"
group = "random"
num_tokens = 8

[[conditions]]
name = "T=0.7"

[[conditions]]
name = "T=0.7 coupled"
verifier = "coupled"

[[conditions]]
name = "T=0"
temperature = 0.0

[methods.ngram]
drafter = "ngram"
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


@pytest.fixture
def order(suite_file: Path) -> Callable[..., Order]:
    """An order on a tiny pair; `overrides` go into the suite, and `methods` replace its own."""

    def make(
        *, methods: dict[str, dict[str, object]] | None = None, baseline: str = "plain", **overrides: object
    ) -> Order:
        pair = tiny_pair()
        known = {"ngram": {"drafter": "ngram"}} if methods is None else methods
        suite = load_suite(suite_file, methods=known, **overrides)
        target = LoadedTarget(pair.target, pair.tokenizer)
        return Order(suite, collect(suite), target, model="tiny", baseline=baseline)

    return make
