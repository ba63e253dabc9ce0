"""`evodraft inspect`: the report as people and machines read it, and the command that it names."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer


def plain(text: str) -> str:
    """Without line breaks, which depend on the width of the terminal."""
    return " ".join(text.split())


def test_a_folder(command, model_folder) -> None:
    ended = command("inspect", model_folder, "--max-batch", "2")
    assert (ended.code, ended.err) == (0, "")
    shown = plain(ended.out)
    assert "LlamaForCausalLM" in shown
    assert "runtime native: the Llama family in C++" in shown
    assert "numerics untried: " in shown
    assert "drafter ngram: needs no draft model and fits every target" in shown
    assert "2 sequences of 256 tokens" in shown
    assert "LLM.from_pretrained(" in ended.out


def test_the_command_it_names_works(command, model_folder) -> None:
    asked = ["--drafter", "ngram", "--dtype", "float32", "--device", "cpu", "--runtime", "eager", "--numerics", "fast"]
    document = json.loads(command("inspect", model_folder, *asked, "--json").out)
    program, *arguments = shlex.split(document["command"])
    assert program == "evodraft"
    assert arguments[:4] == ["generate", "--model", model_folder, "--drafter"]
    for flag, word in (("--runtime", "eager"), ("--numerics", "fast")):
        assert arguments[arguments.index(flag) + 1] == word
    ended = command(*arguments, "--max-new-tokens", "4")
    assert ended.code == 0


def test_json(command, model_folder, tmp_path) -> None:
    tiny_model("llama", vocab_size=257, num_hidden_layers=1).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    ended = command("inspect", model_folder, "--drafter", f"model:{tmp_path}", "--trust-remote-code", "--json")
    document = json.loads(ended.out)
    assert document["can_run"]
    assert document["target"]["num_layers"] == 2
    assert document["drafter"]["model"]["num_layers"] == 1
    assert document["drafter"]["tokens"]["name"] == "same"
    assert document["memory"]["max_batch"] == 8
    assert document["loaded"] is None
    assert "--trust-remote-code" in document["command"]


def test_loading_for_real(command, model_folder) -> None:
    ended = command("inspect", model_folder, "--load", "--max-batch", "1", "--device", "cpu")
    assert (ended.code, ended.err) == (0, "")
    shown = plain(ended.out)
    assert "16 of 16 tokens equal to plain decoding" in shown
    assert "numerics untried: " in shown
    assert "numerics invariant: passes of widths 1 to 24" in shown


def test_what_cannot_run_ends_with_1(command, model_folder) -> None:
    ended = command("inspect", model_folder, "--max-model-len", "1000", "--load")
    assert ended.code == 1
    assert "problem max_model_len=1000 exceeds the model's context of 256; lower it" in plain(ended.out)
    assert "LLM.from_pretrained" not in ended.out
    assert not json.loads(command("inspect", model_folder, "--max-model-len", "1000", "--json").out)["can_run"]


def test_a_registered_draft(command, downloaded) -> None:
    target, draft = tiny_model("llama", vocab_size=264), tiny_model("llama", vocab_size=264, num_hidden_layers=1)
    downloaded("Qwen/Qwen3-8B", target)
    downloaded("Qwen/Qwen3-0.6B", draft, "c1899de289a04d12100db370d81485cdf75e47ca")
    shown = plain(command("inspect", "Qwen/Qwen3-8B").out)
    assert "drafter model: registered for this target" in shown
    assert "revision c1899de289a04d12100db370d81485cdf75e47ca, licence Apache-2.0, not verified" in shown
    assert "passed over RedHatAI/Qwen3-8B-speculator.eagle3: cannot read the head" in shown
    assert "tokens same: every token id" in shown


@pytest.mark.usefixtures("downloaded")
def test_a_hub_model_without_a_network(command) -> None:
    ended = command("inspect", "owner/model")
    assert ended.code == 2
    assert ended.one_line.startswith("WeightsError: cannot read the config.json of owner/model: ")
    assert ended.one_line.endswith("check the name, the revision and the network")


def test_names_do_not_steer_the_terminal(command, model_folder, tmp_path) -> None:
    folder = Path(tmp_path / "a\x1b[31m[b]red")
    folder.symlink_to(model_folder, target_is_directory=True)
    ended = command("inspect", str(folder))
    assert "\x1b" not in ended.out
    assert "[b]red" in ended.out


def test_a_draft_and_what_was_passed_over(command, model_folder) -> None:
    ended = command("inspect", model_folder, "--drafter", f"model:{model_folder}", "--dtype", "float16", "--load")
    shown = plain(ended.out)
    assert ended.code == 0
    assert "passed over native: the native step computes bfloat16 and float32, not float16" in shown
    assert shown.count("draft by ") == 2  # foretold and loaded


def test_a_runtime_or_numerics_that_nobody_knows(command, model_folder) -> None:
    ended = command("inspect", model_folder, "--runtime", "nativ")
    assert ended.code == 2
    assert ended.one_line.startswith("UnknownOptionError: unknown runtime 'nativ'; did you mean 'native'? Known: auto,")
    assert command("inspect", model_folder, "--numerics", "exact").code == 2


def test_numerics_that_cannot_be_had_end_with_1(command, model_folder) -> None:
    ended = command("inspect", model_folder, "--runtime", "transformers", "--numerics", "invariant")
    assert ended.code == 1
    assert "problem nothing decodes the model with runtime='transformers'" in plain(ended.out)


def test_mistakes(command, model_folder) -> None:
    assert command("inspect", model_folder, "--drafter", "ngrm").code == 2
    assert command("inspect", "/no/such/folder").code == 2
    assert command("inspect", model_folder, "--max-batch", "0").code == 2
