"""The commands that make a head, on a tiny target."""

from __future__ import annotations

import inspect
import json
import os
import signal

import pytest
import torch
from typer.testing import CliRunner

from evodraft.drafters.eagle.files import load_head
from evodraft.errors import TrainingError
from evodraft.training import head_command
from evodraft.training.__main__ import build_app
from evodraft.training.bundle import load_model, save_model
from evodraft.training.head import HeadTrainer, Length
from evodraft.training.head_start import new_head

SMALL = ("--taps", "0,1,2", "--num-depths", 2, "--batch", 4, "--context", 16, "--num-steps", 2, "--device", "cpu")


@pytest.fixture
def target(model, tokenizer, tmp_path):
    folder = tmp_path / "target"
    save_model(model, tokenizer, folder, model.dtype)
    return folder


def invoke(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


def call(*words) -> None:
    result = invoke(*words)
    assert result.exit_code == 0, result.output + str(result.exception)


@pytest.fixture
def answers(target, tmp_path):
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    records = [{"prompt": f"What is {number} + 1?", "domain": "sums"} for number in range(120)]
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    call("generate", "--target", target, "--prompts", prompts, "--out", answers, "--max-new-tokens", 6)
    return answers


def test_from_prompts_to_a_head_that_can_be_read(target, answers, tmp_path) -> None:
    run, out = tmp_path / "run", tmp_path / "eagle"
    words = ("head", "--target", target, "--generated", answers, "--run", run, "--out", out, *SMALL)
    call(*words, "--domains", "sums")
    head = load_head(out, num_target_layers=2)
    start = new_head(load_model(target), (0, 1, 2))
    assert head.shape.taps == (0, 1, 2)
    assert (head.fc.weight - start.fc.weight).abs().max() > 0
    record = json.loads((out / "config.json").read_text())["evodraft"]["provenance"]
    assert record["num_tokens"] == 2 * 4 * 16
    assert record["recipe"]["num_steps"] == 2
    assert record["losses"]["sums"] == record["held_out"]["sums"]["divergence"][0]
    assert len(record["held_out"]["sums"]["agreement"]) == 2
    assert len((run / "history.jsonl").read_text().splitlines()) == 2
    call(*words)  # nothing is left to do: the head is written again
    assert len((run / "history.jsonl").read_text().splitlines()) == 2


def test_rows_of_the_demo_corpus_are_mixed_in(target, answers, tmp_path, streams, mix, monkeypatch) -> None:
    monkeypatch.setattr(head_command, "DEMO_MIX", mix)
    monkeypatch.setattr(head_command, "build_streams", lambda *_: streams)
    words = ["head", "--target", target, "--generated", answers, "--out", tmp_path / "eagle", *SMALL]
    corpus = ["--corpus", tmp_path, "--corpus-share", 0.5]
    call(*words, *corpus, "--cache", tmp_path, "--domains", "sums", "--run", tmp_path / "a")
    record = json.loads((tmp_path / "eagle" / "config.json").read_text())["evodraft"]["provenance"]
    assert record["recipe"]["corpus_share"] == 0.5
    refused = invoke(*words, *corpus, "--run", tmp_path / "b")
    assert isinstance(refused.exception, TrainingError)
    assert "--cache" in str(refused.exception)


def test_domains_that_the_corpus_lacks_are_named(tmp_path) -> None:
    with pytest.raises(TrainingError, match="astrology"):
        head_command._corpus_rows(tmp_path, tmp_path, tmp_path, ["astrology"], 0)


@pytest.mark.parametrize("taps", ["one", "1,,2"])
def test_taps_that_are_no_numbers_are_named(target, answers, tmp_path, taps) -> None:
    words = ("head", "--target", target, "--generated", answers, "--run", tmp_path / "run", "--out", tmp_path / "e")
    refused = invoke(*words, *SMALL, "--taps", taps)
    assert isinstance(refused.exception, TrainingError)
    assert taps in str(refused.exception)


def test_sigterm_ends_a_run_after_its_step(model, tmp_path) -> None:
    class Interrupting:
        def next_batch(self, batch: int, context: int):
            os.kill(os.getpid(), signal.SIGTERM)
            return rows

        def state(self):
            return {}

    rows = torch.randint(300, (2, 8), generator=torch.Generator().manual_seed(0))
    recipe = head_command.HeadRecipe(num_depths=2, batch=2, context=8)
    trainer = HeadTrainer(model, new_head(model, (0, 1)), Interrupting(), recipe, tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    head_command._train(trainer, Length(50), 100)
    assert trainer.step == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_defaults_are_those_of_the_recipe() -> None:
    parameters = inspect.signature(head_command.make_head).parameters
    recipe = head_command.HeadRecipe().as_dict()
    shared = [name for name in recipe if name in parameters]
    assert len(shared) == 6
    assert {name: parameters[name].default for name in shared} == {name: recipe[name] for name in shared}
