"""From wishes to a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evodraft.bench import start as start_module
from evodraft.bench.plan import Order
from evodraft.bench.report import tables
from evodraft.bench.run import run
from evodraft.bench.start import Wishes, prepare, start
from evodraft.bench.theirs import Generate
from evodraft.errors import BenchError, ConfigError, UnknownOptionError
from evodraft.runtime.load import load_model

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


def test_peers_load_random_weights_from_the_folder_that_methods_run_on(
    suite_file: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(start_module, "check_installed", lambda peer, folder: None)
    wishes = Wishes(str(suite_file), model="random:tiny", load={"device": "cpu"})
    assert prepare(wishes).folder is None
    assert not (tmp_path / "cache").exists()  # without peers nothing is written
    order = prepare(replace(wishes, peers=("transformers/plain",)))
    assert order.folder is not None
    assert order.folder.is_relative_to(tmp_path / "cache")
    assert (order.synthetic, order.model) == ("random weights in the shape of tiny", "random:tiny")
    assert order.stop_token_ids == frozenset()
    stored = load_model(order.folder).model.state_dict()
    assert all(torch.equal(weight, stored[name]) for name, weight in order.target.model.state_dict().items())


def test_synthetic_peers_are_marked_and_never_counted(order: Callable[..., Order]) -> None:
    made = replace(order(ignore_eos=True, conditions=["T=0"], methods={}), synthetic="random weights")
    result = run(made, [Generate(made.target.model, "transformers/plain", made.synthetic)])
    assert [record.synthetic for record in result.contestants] == ["random weights"] * 3
    rows = [row for row in result.rows if row.contestant == "transformers/plain"]
    assert all(row.check is not None and row.check.is_passed and not row.is_counted for row in rows)
    assert {tables.note(result, row) for row in rows} == {"synthetic"}


def test_peers_that_cannot_take_part_are_named_before_a_model_is_loaded(suite_file: Path, tmp_path: Path) -> None:
    wishes = Wishes(str(suite_file), model="nowhere/at-all", peers_folder=tmp_path)
    with pytest.raises(UnknownOptionError, match="did you mean 'vllm'"):
        prepare(replace(wishes, peers=("vlm/plain",)))
    with pytest.raises(BenchError, match="evodraft bench peers --install vllm"):
        prepare(replace(wishes, peers=("vllm/plain",)))


@pytest.mark.parametrize("model", ["demo", "random:tiny"])
def test_runtime_is_plain_decoding_of_any_model_to_the_same_length(bundle: Path, model: str) -> None:
    sizes = {"max_new_tokens": 40, "prompts_per_group": 1}
    result = start(Wishes("runtime", model=model, overrides=sizes, load={"device": "cpu", "dtype": "float32"}))
    assert [record.name for record in result.contestants] == ["plain", "control"]
    assert {(item.num_tokens, item.num_draft_tokens, item.error) for item in result.items} == {(40, 0, None)}
    assert result.notes == ("no token ends an answer: all have 40 tokens",)
    notes = {tables.note(result, row) for row in result.rows}
    assert notes == ({"synthetic"} if model.startswith("random") else {""})


def test_answers_must_leave_room_for_a_prompt(bundle: Path, suite_file: Path) -> None:
    with pytest.raises(BenchError, match="max_new_tokens=1000000 leaves no room for a prompt"):
        prepare(Wishes(str(suite_file), overrides={"max_new_tokens": 1_000_000}))


def test_wishes_that_contradict_each_other_are_refused(suite_file: Path) -> None:
    forced = Wishes(str(suite_file), model="random:tiny", peers=("transformers/plain",), force_acceptance=0.5)
    with pytest.raises(ConfigError, match="--force-acceptance goes with no --peer"):
        prepare(forced)
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
