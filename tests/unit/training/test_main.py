"""The commands from corpus to bundle, on a corpus with every source of the demo mix."""

from __future__ import annotations

import json
import lzma
from collections import defaultdict

import pytest
import torch
from typer.testing import CliRunner

from evodraft.drafters.eagle.files import save_head
from evodraft.errors import WeightsError
from evodraft.testing.heads import tiny_head
from evodraft.training.__main__ import build_app
from evodraft.training.bundle import bundled_provenance, load_model, save_model, verify_bundle, write_manifest
from evodraft.training.checkpoint import hash_file
from evodraft.training.data import corpus_file
from evodraft.training.measure import NUM_HEAD_DEPTHS
from evodraft.training.mix import DEMO_MIX
from evodraft.training.tasks import TASKS

TEXTS = {
    "text": {"text": "The grey goose of {} walks. " * 3},
    "chat": {"prompt": 'Where are "Notices" in {}?', "response": "Here."},
}


@pytest.fixture
def demo_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("evodraft.training.data.NUM_DOCUMENTS", 40)
    monkeypatch.setattr("evodraft.training.data.NUM_HELD_OUT", 10)
    monkeypatch.setattr("evodraft.training.measure.NUM_TIMED_STEPS", 20)
    lines = defaultdict(list)
    for source in DEMO_MIX.sources:
        if source.kind == "task":
            continue
        record = {key: text.replace("{}", source.prefix) for key, text in TEXTS[source.kind].items()}
        for split in ("train", "valid"):
            line = json.dumps(record | {"source": source.prefix + "@1:file"}) + "\n"
            lines[corpus_file(source.domain, source.kind, split)] += 6 * [line]
    for name, records in lines.items():
        with lzma.open(tmp_path / name, "wt") as file:
            file.writelines(records)
    return tmp_path


def call(*words):
    result = CliRunner().invoke(build_app(), [str(word) for word in words])
    assert result.exit_code == 0, result.output + str(result.exception)


def test_from_corpus_to_answers(demo_corpus, tmp_path):
    tokenizer, cache, target, draft = (tmp_path / name for name in ("tokenizer", "cache", "target", "draft"))
    data = ("--corpus", demo_corpus, "--cache", cache)
    call("tokenizer", "--corpus", demo_corpus, "--out", tokenizer, "--size", 320)
    run = ("--tokenizer", tokenizer, "--run", tmp_path / "run", "--out", target)
    call("target", *data, *run, "--phases", "1x1x2x32,1x2x2x32")
    call(
        "draft",
        *data,
        "--target",
        target,
        "--out",
        draft,
        "--num-steps",
        2,
        "--layers",
        "0,1",
        "--num-pools",
        1,
        "--pool-rows",
        2,
    )
    again = ("--num-steps", 1, "--num-pools", 1, "--pool-rows", 2, "--layers", "0,1")
    call("draft", *data, "--target", target, "--out", tmp_path / "second", "--start-from", draft, *again)
    second = json.loads((tmp_path / "second" / "provenance.json").read_text())
    assert second["recipe"]["parent_sha256"] == hash_file(draft / "model.safetensors")
    call("bundle", "--target", target, "--draft", draft, "--out", tmp_path / "bundle")
    verify_bundle(tmp_path / "bundle")
    _add_heads(tmp_path / "bundle", target, tmp_path)
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    prompts.write_text(json.dumps({"domain": "math", "prompt": "Where is 2?"}) + "\n")
    call(
        "answer",
        "--model",
        tmp_path / "bundle" / "draft",
        "--prompts",
        prompts,
        "--out",
        answers,
        "--max-new-tokens",
        4,
    )
    (answer,) = [json.loads(line) for line in answers.read_text().splitlines()]
    assert answer["prompt"] == "Where is 2?"
    assert answer["tokens"] <= 4
    report = tmp_path / "models.json"
    call("measure", *data, "--bundle", tmp_path / "bundle", "--out", report, "--per-domain", 1, "--per-task", 2)
    measured = json.loads(report.read_text())
    assert set(measured["target"]["losses"]) == set(measured["fit"]) == set(DEMO_MIX.domains)
    assert {slug.split(".")[0] for slug in measured["draft"]["source_losses"]} == set(DEMO_MIX.domains)
    assert set(measured["target"]["repetition"]) == set(DEMO_MIX.domains) - {"tasks"}
    assert set(measured["target"]["tasks"]) == set(TASKS)
    assert 0 < measured["fit"]["math"]["overlap"] <= 1
    assert measured["cost"]["torch.bfloat16"]["ratio"] > 0
    assert set(measured["heads"]) == {"eagle", "eagle_general"}
    for head in measured["heads"].values():
        assert set(head["text"]) == set(DEMO_MIX.domains)
        assert [len(means) for means in head["text"]["math"].values()] == [NUM_HEAD_DEPTHS] * 3
        assert 0 < head["text"]["math"]["overlap"][0] <= 1
        assert head["answers"] == {"math": {"overlap": [0.5]}}
        assert head["parameters"] > 0
    record = json.loads((target / "provenance.json").read_text())
    assert set(record["losses"]) == set(DEMO_MIX.domains)
    assert record["num_tokens"] == 128
    assert str(tmp_path) not in json.dumps(record)


def _add_heads(bundle, target, folder) -> None:
    """Puts heads and a token map into a bundle; pair and records of it stay as they are."""
    model = load_model(target)
    save_head(tiny_head(model), folder / "eagle", target=model, provenance={"held_out": {"math": {"overlap": [0.5]}}})
    (folder / "map.json").write_text("[7, 5]")
    before = {path: path.read_bytes() for path in sorted(bundle.glob("*/*"))}
    records = bundled_provenance(bundle)
    heads = ("--eagle", folder / "eagle", "--eagle-general", folder / "eagle")
    call("bundle", "--out", bundle, *heads, "--vocabulary", folder / "map.json")
    verify_bundle(bundle)
    assert {path: path.read_bytes() for path in before} == before
    assert {name: bundled_provenance(bundle)[name] for name in records} == records
    call("bundle", "--out", bundle, "--eagle", bundle / "eagle")  # the rest stays
    assert len(bundled_provenance(bundle)) == 4
    assert (bundle / "vocabulary.json").read_text() == "[7, 5]\n"


def test_what_stays_in_a_bundle_must_be_whole(model, tokenizer, tmp_path):
    for name in ("target", "draft"):
        save_model(model, tokenizer, tmp_path / name, torch.bfloat16)
    write_manifest(tmp_path, {"target": {}, "draft": {}})
    (tmp_path / "draft" / "config.json").write_text("{}")
    save_head(tiny_head(model), tmp_path / "head", target=model)
    words = ["bundle", "--out", str(tmp_path), "--eagle", str(tmp_path / "head")]
    refused = CliRunner().invoke(build_app(), words)
    assert isinstance(refused.exception, WeightsError)
    assert not (tmp_path / "eagle").exists()


def test_malformed_phases_are_a_clear_error(demo_corpus, tokenizer_folder, tmp_path):
    words = [
        "target",
        "--corpus",
        demo_corpus,
        "--cache",
        tmp_path,
        "--tokenizer",
        tokenizer_folder,
        "--run",
        tmp_path,
        "--out",
        tmp_path,
        "--phases",
        "3x4",
    ]
    result = CliRunner().invoke(build_app(), [str(word) for word in words])
    assert "STEPSxLAYERSxBATCHxCONTEXT" in str(result.exception)
