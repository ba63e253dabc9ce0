"""From wishes to a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evodraft.bench.start import Wishes, prepare, start
from evodraft.errors import BenchError, ConfigError, UnknownOptionError

SIZES = {"conditions": ["T=0.7"], "max_new_tokens": 6, "prompts_per_group": 2}


def test_a_suite_on_the_demo(bundle: Path, suite_file: Path) -> None:
    result = start(Wishes(str(suite_file), overrides=SIZES, methods=("ngram",), command=("bench", "run")))
    assert result.model.name == "demo"
    assert result.command == ("bench", "run")
    assert [record.name for record in result.contestants] == ["plain", "control", "ngram"]
    assert all(row.error is None for row in result.rows)


def test_own_prompts_take_the_place_of_the_suites(bundle: Path, suite_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    texts = [{"prompt": f"Question {number}?", "domain": "mine"} for number in range(3)]
    path.write_text("\n".join(map(json.dumps, texts)) + "\n", encoding="utf-8")
    order = prepare(Wishes(str(suite_file), prompts=path, overrides=SIZES))
    assert order.suite.groups == ("mine",)
    assert [prompt.group for prompt in order.prompts] == ["mine"] * 2


def test_a_small_file_of_prompts_is_enough(bundle: Path, suite_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    groups = ["a", "a", "a", "b", "b"]
    lines = [json.dumps({"prompt": f"{number}?", "domain": group}) for number, group in enumerate(groups)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sizes = {"conditions": ["T=0.7"], "max_new_tokens": 6}
    assert prepare(Wishes("domains", prompts=path, overrides=sizes)).suite.prompts_per_group == 2
    assert prepare(Wishes(str(suite_file), prompts=path, overrides=sizes)).suite.prompts_per_group == 2
    with pytest.raises(BenchError, match="group 'b' has 2 different prompts"):
        prepare(Wishes("domains", prompts=path, overrides={**sizes, "prompts_per_group": 3}))


def test_random_weights_and_forced_acceptance_are_marked_everywhere(suite_file: Path) -> None:
    wishes = Wishes(
        str(suite_file),
        model="random:tiny",
        methods=("drafter=auto,controller=fixed:4",),
        force_acceptance=1.0,
        overrides={**SIZES, "max_new_tokens": 20},
        load={"dtype": "float32", "device": "cpu"},
    )
    result = start(wishes)
    assert result.model.synthetic is not None
    assert "random weights" in result.model.synthetic
    assert "forced acceptance 1" in result.model.synthetic
    assert all(record.synthetic == result.model.synthetic for record in result.contestants)
    assert not any(row.is_counted for row in result.rows)
    assert all(row.check is not None and row.check.kind == "none" for row in result.rows)
    [row] = [row for row in result.rows if row.contestant == wishes.methods[0] and row.group == "all"]
    assert row.acceptance_rate == 1.0
    assert row.mean_acceptance_length is not None
    assert row.mean_acceptance_length > 4


def test_what_is_synthetic_stands_beside_no_peer(suite_file: Path) -> None:
    with pytest.raises(ConfigError, match="peers cannot be compared with what is synthetic"):
        prepare(Wishes(str(suite_file), model="random:tiny", peers=("transformers/plain",), load={"device": "cpu"}))
    with pytest.raises(ConfigError, match="--draft x does not go with random:tiny"):
        prepare(Wishes(str(suite_file), model="random:tiny", draft="x"))
    with pytest.raises(UnknownOptionError, match="tiny"):
        prepare(Wishes(str(suite_file), model="random:tinny"))
    with pytest.raises(BenchError, match="from 0 to 1"):
        prepare(Wishes(str(suite_file), model="random:tiny", force_acceptance=1.5, load={"device": "cpu"}))


def test_threads_are_set_for_everybody(bundle: Path, suite_file: Path) -> None:
    before = torch.get_num_threads()
    try:
        result = start(Wishes(str(suite_file), threads=1, overrides=SIZES, methods=("ngram",)))
        assert result.machine.threads == 1
    finally:
        torch.set_num_threads(before)
