"""Every defect of a checkpoint has a name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.import_utils import is_env_variable_true

from evodraft.errors import CapacityError, ConfigError, UnknownOptionError, UnsupportedModelError, WeightsError
from evodraft.runtime.load import load_model
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"


class Touch:
    """Unpickled without care, it makes a file: what a hostile pickle would do with worse intent."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


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


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nothing", "~/nothing-here", "~nobody/x", "a/b/c", "back\\slash", Path("x")]
)
def test_a_path_that_does_not_exist_is_called_that(name):
    with pytest.raises(WeightsError, match=r"the folder .* does not exist.*'owner/model'"):
        load_model(name)


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match="the name of the model is empty"):
        load_model("")


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


def keep_only_a_pickle(content=b"", **options):
    """Writes `content` as it is if it is bytes, else through torch.save."""

    def damage(folder):
        (folder / WEIGHTS).unlink()
        if isinstance(content, bytes):
            (folder / PICKLE).write_bytes(content)
        else:
            torch.save(content, folder / PICKLE, **options)

    return damage


def rename_the_weights(name):
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


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
        (keep_only_a_pickle({}), r"21 tensors are missing, first lm_head\.weight"),
        (
            keep_only_a_pickle(),
            r"cannot read the weights of .*copy/pytorch_model\.bin: EOFError; .*convert it to safet",
        ),
        (keep_only_a_pickle(b"x" * 999), r"pytorch_model\.bin: .*; it is damaged or holds more than tensors, of which"),
        (lose_a_shard, r"cannot read the weights of .*copy: .*model-00002-of"),
        (rename_a_tensor, r"1 tensors are missing, first model\.layers\.0\.mlp\.up_proj\.weight; they would be random"),
        (lambda folder: edit_config(folder, num_hidden_layers=3), r"9 tensors are missing, first model\.layers\.2"),
        (
            lambda folder: edit_config(folder, hidden_size=64),
            r"tensors have another shape .* first lm_head\.weight: \(300, 32\) stored, \(300, 64\) expected",
        ),
        (
            rename_the_weights("model.pt"),
            r"cannot read the weights of .*no file named model\.safetensors, or pytorch_model",
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
        (keep_only_a_pickle([1, 2]), "cannot use the weights of .*files are intact"),
        (lambda folder: edit_config(folder, hidden_size="wide"), "cannot use the config.json of .*'hidden_size'"),
        (lambda folder: edit_config(folder, dtype="heavy"), "cannot use the config.json of .*no attribute 'heavy'"),
        (
            lambda folder: edit_config(folder, attn_implementation="owner/code"),
            "the attention code 'owner/code' from a",
        ),
        (write("config.json", "[1]"), "cannot use the config.json of"),
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


@pytest.mark.parametrize("place", ["../other.safetensors", "/tmp/other.safetensors"])
def test_shards_lie_in_the_folder(folder, place):
    """The index comes with the model; it must not reach for files elsewhere."""
    (folder / WEIGHTS).unlink()
    tiny_model("llama", vocab_size=300).save_pretrained(folder, max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = place
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=rf"index.json names '{place}', which is outside of its folder"):
        load_model(folder)


def test_pickled_tensors_are_read_where_there_are_no_safetensors(folder):
    reference = load_model(folder, device="cpu").model.state_dict()
    (folder / WEIGHTS).unlink()
    torch.save(reference, folder / PICKLE)
    torch.testing.assert_close(load_model(folder, device="cpu").model.state_dict(), reference, atol=0, rtol=0)


def test_safetensors_are_preferred_to_a_pickle(folder, tmp_path):
    torch.save({"weight": Touch(tmp_path / "marker")}, folder / PICKLE)
    load_model(folder, device="cpu")
    os.truncate(folder / WEIGHTS, 1000)
    with pytest.raises(WeightsError, match=r"cannot read the weights of .*copy/model\.safetensors"):
        load_model(folder, device="cpu")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_with_code_is_named_and_nothing_of_it_runs(folder, tmp_path, is_zip):
    marker = tmp_path / "marker"
    keep_only_a_pickle({"weight": Touch(marker)}, _use_new_zipfile_serialization=is_zip)(folder)
    with pytest.raises(
        WeightsError,
        match=r"cannot read the weights of .*copy/pytorch_model\.bin: Weights only load failed; it is damaged or holds "
        "more than tensors, of which nothing was run; convert it to safetensors",
    ):
        load_model(folder, device="cpu")
    assert not marker.exists()
    torch.load(folder / PICKLE, weights_only=False)
    assert marker.exists(), "the pickle would have run"


CODE = """
from pathlib import Path

from transformers import {base} as Base

Path({marker!r}).touch()


class Own(Base):
    pass
"""


def bring_code(folder, marker, kind):
    """Makes config or tokenizer ask for a class of a module in the folder."""
    base, file, part = {
        "config": ("LlamaConfig", "config.json", "AutoConfig"),
        "model": ("LlamaForCausalLM", "config.json", "AutoModelForCausalLM"),
        "tokenizer": ("PreTrainedTokenizerFast", "tokenizer_config.json", "AutoTokenizer"),
    }[kind]
    (folder / "own.py").write_text(CODE.format(base=base, marker=str(marker)))
    reference = "own.Own" if kind != "tokenizer" else [None, "own.Own"]
    content = json.loads((folder / file).read_text()) | {"auto_map": {part: reference}}
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["config", "model", "tokenizer"])
def test_code_that_comes_with_a_model_runs_only_if_it_is_trusted(folder, tmp_path, monkeypatch, kind):
    """Where transformers has a class of its own for the model, that one is taken."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    marker = tmp_path / "marker"
    bring_code(folder, marker, kind)
    load_model(folder, device="cpu")
    assert not marker.exists()
    with suppress(UnsupportedModelError):  # a config of another class fits no model of transformers' own
        load_model(folder, device="cpu", trust_remote_code=True)
    assert marker.exists(), "the code would have run"


def test_a_model_that_needs_its_own_code_is_refused(folder, tmp_path):
    bring_code(folder, tmp_path / "marker", "config")
    edit_config(folder, model_type="their_own")
    with pytest.raises(UnsupportedModelError, match=r"a model with its own code needs trust_remote_code"):
        load_model(folder, device="cpu")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("before", [None, "0"])
def test_no_service_is_asked_to_convert_a_pickle(folder, monkeypatch, before):
    name, seen = "DISABLE_SAFETENSORS_CONVERSION", []
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    load = AutoModelForCausalLM.from_pretrained

    def record(*arguments, **options):
        seen.append(is_env_variable_true(name))
        return load(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", record)
    load_model(folder, device="cpu")
    assert seen == [True]
    assert os.environ.get(name) == before
