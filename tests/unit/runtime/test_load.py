"""Every defect of a checkpoint has a name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from evodraft.errors import CapacityError, ConfigError, UnknownOptionError, UnsupportedModelError, WeightsError
from evodraft.runtime.load import load_model
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama", vocab_size=300).bfloat16().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(intact, tmp_path):
    return Path(shutil.copytree(intact, tmp_path / "copy"))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_loads_as_it_was_saved(folder):
    loaded = load_model(folder)
    assert loaded.model.dtype is torch.bfloat16
    assert not loaded.model.training
    assert loaded.model.device.type == (torch.accelerator.current_accelerator() or torch.device("cpu")).type
    assert loaded.tokenizer.decode(loaded.tokenizer("naïve")["input_ids"]) == "naïve"
    reference = tiny_model("llama", vocab_size=300).bfloat16().state_dict()
    torch.testing.assert_close(load_model(str(folder), device="cpu").model.state_dict(), reference, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", torch.float32])
def test_the_dtype_can_be_chosen(folder, dtype):
    assert load_model(folder, dtype=dtype, device=torch.device("cpu")).model.dtype is torch.float32


def test_no_network_is_asked_about_a_folder(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def refuse(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    load_model(folder, device="cpu")


def test_device_map_is_passed_on_and_nothing_is_moved_after_it(folder, monkeypatch):
    """With real maps accelerate has the last word; a single CPU is all that a test machine is sure to have."""
    seen = {}
    load = AutoModelForCausalLM.from_pretrained

    def record(*arguments, device_map, **options):
        seen["device_map"] = device_map
        return load(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", record)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_, **__: pytest.fail("moved"))
    load_model(folder, device_map={"": "cpu"})
    assert seen == {"device_map": {"": "cpu"}}


def test_options_that_contradict_or_do_not_exist_are_refused(folder):
    with pytest.raises(ConfigError, match="pass only one of them"):
        load_model(folder, device="cpu", device_map="auto")
    with pytest.raises(UnknownOptionError, match="did you mean 'bfloat16'"):
        load_model(folder, dtype="bfloat")
    with pytest.raises(ConfigError, match=r"device='gpu'.*use 'auto', 'cpu' or 'cuda'"):
        load_model(folder, device="gpu")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "a/b/c", "back\\slash", Path("x")])
def test_a_path_that_does_not_exist_is_called_that(name):
    with pytest.raises(WeightsError, match=r"the folder .* does not exist.*'owner/model'"):
        load_model(name)


def test_a_relative_path_is_known_by_its_parent(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="the folder models/absent does not exist"):
        load_model("models/absent")


def test_a_hub_name_that_nobody_can_fetch():
    with pytest.raises(
        WeightsError, match=r"config.json of owner/model: .*check the name, the revision and the network"
    ):
        load_model("owner/model")


def test_a_file_is_no_folder(folder):
    with pytest.raises(WeightsError, match=r"model.safetensors is a file, not a folder"):
        load_model(folder / WEIGHTS)


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncate(part):
    def damage(folder):
        os.truncate(folder / WEIGHTS, int((folder / WEIGHTS).stat().st_size * part))

    return damage


def keep_only_a_pickle(folder):
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def lose_a_shard(folder):
    (folder / WEIGHTS).unlink()
    tiny_model("llama", vocab_size=300).save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def rename_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["else"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(WEIGHTS), r"cannot read the weights of .*copy: .*model\.safetensors.*again"),
        (truncate(0.5), r"cannot read the weights of .*copy/model\.safetensors: .*incomplete.*again"),
        (truncate(0), r"cannot read the weights of .*copy/model\.safetensors: .*header too small"),
        (write(WEIGHTS, "x" * 5000), r"cannot read the weights of .*copy/model\.safetensors: .*header too large"),
        (keep_only_a_pickle, r"cannot read the weights of .*copy: .*model\.safetensors"),
        (lose_a_shard, r"cannot read the weights of .*copy: .*model-00002-of"),
        (rename_a_tensor, r"1 tensors are missing, first model\.layers\.0\.mlp\.up_proj\.weight; they would be random"),
        (lambda folder: edit_config(folder, num_hidden_layers=3), r"9 tensors are missing, first model\.layers\.2"),
        (
            lambda folder: edit_config(folder, hidden_size=64),
            r"tensors have another shape .* first lm_head\.weight: \(300, 32\) stored, \(300, 64\) expected",
        ),
        (remove("config.json"), r"has no config\.json; pass the folder that save_pretrained wrote"),
        (write("config.json", "{"), r"cannot read the config\.json of .*not a valid JSON"),
    ],
)
def test_damaged_files_are_weights_errors(folder, damage, message):
    damage(folder)
    with pytest.raises(WeightsError, match=message):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: edit_config(folder, model_type="unheard_of"), "cannot use the config.json of .*unheard_of"),
        (lambda folder: edit_config(folder, model_type="vit"), "cannot use the weights of .*causal language model"),
        (write("tokenizer.json", "{"), "cannot use the tokenizer of"),
        (remove("tokenizer.json"), "cannot use the tokenizer of"),
    ],
)
def test_what_transformers_cannot_use_is_unsupported(folder, damage, message):
    damage(folder)
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(folder, device="cpu")


def test_a_folder_can_be_gone_wrong_between_two_looks(folder, monkeypatch):
    """The damaged file is named by opening the files again; if they open, the folder is named."""

    def fail(*_, **__):
        raise OSError("disk pulled out\nsecond line")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(WeightsError, match=r"cannot read the weights of .*copy: disk pulled out; copy or download"):
        load_model(folder)


def test_a_model_that_does_not_fit_is_a_capacity_error(folder, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("20 GiB")

    monkeypatch.setattr(AutoConfig, "from_pretrained", exhausted)
    with pytest.raises(CapacityError, match="does not fit on the device: 20 GiB; use device_map or a smaller dtype"):
        load_model(folder)
