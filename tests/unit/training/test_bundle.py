"""Bundles: complete, verified, loadable offline."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from evodraft.errors import WeightsError
from evodraft.training.bundle import (
    load_model,
    load_provenance,
    save_model,
    save_provenance,
    verify_bundle,
    write_manifest,
)
from evodraft.training.checkpoint import hash_file
from evodraft.training.provenance import HeldOut, describe_run


@pytest.fixture
def bundle(model, tokenizer, tmp_path):
    record = describe_run("abc", {"seed": 0}, HeldOut({"math": 1.5}, {}), 1.0, 100)
    for name in ("target", "draft"):
        save_model(model, tokenizer, tmp_path / name, torch.bfloat16)
    write_manifest(tmp_path, {"target": record, "draft": record})
    return tmp_path


def test_the_manifest_matches_the_files(bundle):
    verify_bundle(bundle)
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    models, files = manifest["models"], manifest["files"]
    assert set(files) == {str(path.relative_to(bundle)) for path in bundle.glob("*/*")}
    assert all(record["sha256"] == hash_file(bundle / name) for name, record in files.items())
    assert set(models) == {"target", "draft"}
    for entry in models.values():
        path = bundle / entry["file"]
        assert entry["sha256"] == hash_file(path)
        assert entry["num_bytes"] == path.stat().st_size
        assert entry["provenance"]["losses"] == {"math": 1.5}


def test_models_and_tokenizers_load_offline(bundle, model, tokenizer, ids):
    loaded = AutoModelForCausalLM.from_pretrained(bundle / "target", dtype=torch.float32, local_files_only=True)
    token_ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(token_ids).logits, model(token_ids).logits, rtol=0.05, atol=0.05)
    assert AutoTokenizer.from_pretrained(bundle / "draft", local_files_only=True).get_vocab() == tokenizer.get_vocab()
    generation = GenerationConfig.from_pretrained(bundle / "target", local_files_only=True)
    assert generation.eos_token_id == [ids.separator, ids.end]
    assert generation.pad_token_id == ids.pad
    assert generation.bos_token_id == ids.separator


def test_weights_are_bfloat16_on_disk_tied_ones_once_and_the_model_is_untouched(bundle, model):
    weights = load_file(bundle / "target" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights
    assert model.lm_head.weight.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert json.loads((bundle / "target" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_altered_missing_or_unlisted_file_is_noticed(bundle):
    path = bundle / "draft" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="expects .* bytes with SHA-256"):
        verify_bundle(bundle)
    path.unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        verify_bundle(bundle)
    (bundle / "MANIFEST.json").unlink()
    with pytest.raises(WeightsError, match=r"has no MANIFEST\.json"):
        verify_bundle(bundle)


def test_a_manifest_needs_its_weights(tmp_path):
    with pytest.raises(WeightsError, match="save the model before"):
        write_manifest(tmp_path, {"target": describe_run("abc", {}, HeldOut({}, {}), 1.0, 1)})


def test_loading_gives_float32_or_a_clear_error(bundle, tmp_path):
    assert load_model(bundle / "target").lm_head.weight.dtype == torch.float32
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        load_model(tmp_path / "nowhere")


def test_provenance_survives_the_disk(tmp_path):
    record = describe_run("abc", {"seed": 0}, HeldOut({"math": 1.5}, {}), 1.0, 100)
    save_provenance(record, tmp_path / "deep" / "provenance.json")
    assert load_provenance(tmp_path / "deep" / "provenance.json") == record
    (tmp_path / "broken.json").write_text('{"surplus": 1}')
    with pytest.raises(WeightsError, match="no provenance record"):
        load_provenance(tmp_path / "broken.json")
