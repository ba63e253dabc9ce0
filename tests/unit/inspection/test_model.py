"""Models before they are loaded: sizes that are known, files that are not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evodraft.errors import ModelError, UnknownOptionError, UnsupportedModelError, WeightsError
from evodraft.inspection.model import read_model
from evodraft.runtime.load import load_model
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import TINY_FAMILIES, tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

GIB = 2**30
OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class Config(LlamaConfig):
    pass


class Model(LlamaForCausalLM):
    config_class = Config
"""


def saved(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    tiny_model(family, vocab_size=264, **changes).to(dtype).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_what_is_foretold_is_what_is_loaded(family: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, family)
    model = load_model(folder, device="cpu").model
    facts = ModelFacts.of(model)
    found = read_model(str(folder), "auto")
    assert found.problems == ()
    assert found.facts == facts
    report = found.report
    assert report.num_parameters == model.num_parameters()
    assert report.weight_bytes == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert (report.architecture, report.dtype) == (type(model).__name__, "float32")
    assert (report.cache_bytes_per_token, report.context_length) == (facts.bytes_per_token, facts.context_length)
    assert (report.num_layers, report.vocab_size) == (facts.num_layers, 264)
    assert report.num_file_bytes == (folder / "model.safetensors").stat().st_size


def test_the_shape_of_llama_3_1_8b(shaped: Callable[..., Path]) -> None:
    folder = shaped("llama-3.1-8b")
    found = read_model(str(folder), "auto")
    report = found.report
    assert report.num_parameters == 8_030_261_248  # as its model card counts
    assert report.dtype == "bfloat16"
    assert report.weight_bytes / GIB == pytest.approx(14.96, abs=0.01)
    assert report.cache_bytes_per_token == 128 * 1024  # 32 layers x 2 x 8 heads x 128 numbers x 2 bytes
    assert report.context_length == 131072
    assert found.problems == (f"{folder} holds no weights; copy or download them",)
    assert report.num_file_bytes is None


@pytest.mark.parametrize(
    ("asked", "named", "stored", "chosen"),
    [
        ("auto", "bfloat16", torch.bfloat16, "bfloat16"),
        ("float32", "bfloat16", torch.bfloat16, "float32"),
        (torch.float16, None, torch.float32, "float16"),
        ("auto", None, torch.bfloat16, "bfloat16"),
        ("auto", None, None, "float32"),
    ],
)
def test_the_dtype(asked: Any, named: str | None, stored: torch.dtype | None, chosen: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, dtype=stored or torch.float32)
    edit_config(folder, dtype=named)
    if stored is None:
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
    else:
        assert load_model(folder, dtype=asked, device="cpu").model.dtype is getattr(torch, chosen)
    assert read_model(str(folder), asked).report.dtype == chosen


def test_counters_say_nothing_about_the_dtype(tmp_path: Path) -> None:
    folder = saved(tmp_path, dtype=torch.bfloat16)
    edit_config(folder, dtype=None)
    tensors = {"a": torch.zeros(1, dtype=torch.int64)} | load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert read_model(str(folder), "auto").report.dtype == "bfloat16"


def test_unknown_dtypes(tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'bfloat16'"):
        read_model(str(saved(tmp_path)), "bfloat")


def test_damaged_weights(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    os.truncate(folder / "model.safetensors", 5000)
    [problem] = read_model(str(folder), "auto").problems
    assert problem == f"{folder / 'model.safetensors'} does not open; copy or download it again"


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "damaged"])
def test_a_folder_without_its_tokenizer(tmp_path: Path, content: str | None) -> None:
    folder = saved(tmp_path)
    for file in folder.glob("*token*"):
        file.unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    [problem] = read_model(str(folder), "auto").problems
    with pytest.raises(ModelError) as raised:
        load_model(folder, device="cpu")
    assert problem == str(raised.value)


def test_models_that_cannot_be_decoded_are_described_and_refused(tmp_path: Path) -> None:
    sizes = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    found = read_model(str(tmp_path), "auto")
    assert found.facts is None
    assert "'mamba' keeps a recurrent state" in found.problems[0]
    assert (found.report.cache_bytes_per_token, found.report.context_length) == (None, None)
    assert found.report.num_parameters > 0


def test_what_has_no_config(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        read_model(str(tmp_path), "auto")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="check that it is a causal language model"):
        read_model(str(tmp_path), "auto")


def test_a_hub_model_that_was_downloaded(downloaded: Callable[..., Path]) -> None:
    folder = downloaded("owner/model", tiny_model("llama", vocab_size=264))
    report = read_model("owner/model", "auto").report
    assert report.name == "owner/model"
    assert report.num_file_bytes == (folder / "model.safetensors").stat().st_size


def test_a_hub_model_of_which_only_the_config_is_here(downloaded: Callable[..., Path]) -> None:
    folder = downloaded("owner/model", tiny_model("llama", vocab_size=264))
    (folder / "model.safetensors").unlink()
    found = read_model("owner/model", "auto")
    assert found.report.num_file_bytes is None
    assert found.problems == (), "it would be downloaded"


def test_a_hub_model_that_is_not_here(downloaded: Callable[..., Path]) -> None:
    downloaded("owner/other", tiny_model("llama", vocab_size=264))
    with pytest.raises(
        WeightsError, match="cannot read the config.json of owner/model: .*the revision and the network"
    ):
        read_model("owner/model", "auto")


def test_experts_are_warned_of(tmp_path: Path) -> None:
    [warning] = read_model(str(saved(tmp_path, "mixtral")), "auto").warnings
    assert "is a mixture of experts" in warning
    assert read_model(str(saved(tmp_path / "dense")), "auto").warnings == ()


def test_quantised_weights_are_counted_as_files(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    found = read_model(str(folder), "auto")
    assert found.report.weight_bytes == found.report.num_file_bytes
    assert found.warnings == ()
    (folder / "model.safetensors").unlink()
    [warning] = read_model(str(folder), "auto").warnings
    assert "is quantised, and its files are not here" in warning


def test_code_that_comes_with_a_model_is_warned_of(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "code.py").write_text(OWN_CODE, encoding="utf-8")
    edit_config(folder, auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    [warning] = read_model(str(folder), "auto", trust_remote_code=True).warnings
    assert "comes with code of its own" in warning
