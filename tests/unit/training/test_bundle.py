"""Bundles: complete, verified, loadable offline."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from evodraft import assemble
from evodraft.assemble import find_target
from evodraft.drafters.eagle.files import find_head, load_head, save_head
from evodraft.drafters.eagle.fit import doubt_about
from evodraft.drafters.eagle.origin import Origin
from evodraft.drafters.token_map import read_token_map
from evodraft.errors import ModelMismatchError, WeightsError
from evodraft.testing.heads import tiny_head
from evodraft.training.bundle import (
    HEADS,
    MODELS,
    bundle_head,
    bundle_vocabulary,
    bundled_provenance,
    head_provenance,
    load_model,
    load_provenance,
    save_model,
    save_provenance,
    verify_bundle,
    write_manifest,
)
from evodraft.training.checkpoint import hash_file
from evodraft.training.llama import build_model
from evodraft.training.provenance import HeldOut, describe_run


@pytest.fixture
def bundle(model, tokenizer, tmp_path):
    record = describe_run("abc", {"seed": 0}, HeldOut({"math": 1.5}, {}), 1.0, 100)
    for name in ("target", "draft"):
        save_model(model, tokenizer, tmp_path / name, torch.bfloat16)
    write_manifest(tmp_path, {"target": record.as_dict(), "draft": record.as_dict()})
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
        write_manifest(tmp_path, {"target": {}})


def test_a_manifest_needs_the_record_of_every_model(bundle):
    with pytest.raises(WeightsError, match="draft.* has no record"):
        write_manifest(bundle, {"target": {}})


@pytest.fixture
def trained(model, tmp_path_factory):
    """Folder of a head in float32, as `evodraft train head` writes it."""
    folder = tmp_path_factory.mktemp("trained")
    save_head(tiny_head(model), folder, target=model, target_name="run", provenance={"num_tokens": 7})
    return folder


@pytest.fixture
def with_heads(bundle, trained):
    for name in HEADS:
        bundle_head(trained, bundle, name)
    (trained / "map.txt").write_text("5\n3\n")
    bundle_vocabulary(trained / "map.txt", bundle)
    write_manifest(bundle, bundled_provenance(bundle) | {name: head_provenance(bundle / name) for name in HEADS})
    return bundle


def test_heads_are_of_the_bundled_target_and_in_the_manifest(with_heads, trained):
    verify_bundle(with_heads)
    manifest = json.loads((with_heads / "MANIFEST.json").read_text())
    assert set(manifest["models"]) == {*MODELS, *HEADS}
    assert {"eagle/config.json", "eagle_general/model.safetensors", "vocabulary.json"} < set(manifest["files"])
    target = load_model(with_heads / "target")
    for name in HEADS:
        assert manifest["models"][name]["provenance"] == {"num_tokens": 7}
        weights = load_file(with_heads / name / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
        found = find_head(with_heads / name)
        assert found.description.origin == Origin.of(target)
        assert doubt_about(found.description, name) is None
        assert (with_heads / name / "model.safetensors").stat().st_mode & 0o777 == 0o644
    torch.testing.assert_close(
        load_head(with_heads / "eagle", num_target_layers=2).fc.weight,
        load_head(trained, num_target_layers=2).fc.weight.bfloat16(),
    )


def test_the_folders_are_those_that_the_demo_is_read_from(with_heads, monkeypatch):
    monkeypatch.setattr(assemble, "demo_folder", lambda: with_heads)
    source = find_target("demo")
    assert set(source.bundled_heads) == set(HEADS)
    assert source.bundled_vocabulary == with_heads / "vocabulary.json"
    assert read_token_map(source.bundled_vocabulary) == [5, 3]


def test_a_bundled_head_can_be_written_again_from_itself(with_heads):
    before = (with_heads / "eagle" / "model.safetensors").read_bytes()
    bundle_head(with_heads / "eagle", with_heads, "eagle")
    assert (with_heads / "eagle" / "model.safetensors").read_bytes() == before
    verify_bundle(with_heads)


def test_a_damaged_head_or_token_map_is_noticed(with_heads):
    for name in ("eagle/config.json", "vocabulary.json"):
        path = with_heads / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(WeightsError, match=f"{path.name} has"):
            verify_bundle(with_heads)
        path.write_bytes(content)


def test_the_head_of_another_target_is_refused(with_heads, trained, tokenizer, ids, shape):
    other = build_model(shape, 300, ids, seed=2)
    save_model(other, tokenizer, with_heads / "target", torch.bfloat16)
    write_manifest(with_heads, bundled_provenance(with_heads))
    for refused in (lambda: verify_bundle(with_heads), lambda: bundle_head(trained, with_heads, "eagle")):
        with pytest.raises(ModelMismatchError, match="was trained for"):
            refused()


def test_a_token_map_of_a_larger_vocabulary_is_refused(bundle, tmp_path):
    (tmp_path / "map.txt").write_text("300\n")
    with pytest.raises(ModelMismatchError, match=r"0 \.\. 299"):
        bundle_vocabulary(tmp_path / "map.txt", bundle)


def test_a_head_of_others_has_no_record(trained):
    (trained / "config.json").write_text("{}")
    assert head_provenance(trained) == {}


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
