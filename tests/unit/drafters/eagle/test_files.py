"""Heads from files and back: every layout that is published, and a name for every defect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from evodraft.drafters.eagle.files import find_head, load_head, save_head
from evodraft.drafters.eagle.head import EagleHead
from evodraft.errors import CapacityError, UnsupportedModelError, WeightsError
from evodraft.runtime.integrity import MANIFEST_FILE
from evodraft.testing.head_files import PUBLISHED
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model

TARGET: Final = tiny_model("llama", num_hidden_layers=8)
TAPS: Final = (2, 4, 5)  # what published heads of such a target read
OWN_IDS: Final = (3, 5, 8, 40, 63)


def head_of(**options: Any) -> EagleHead:
    return tiny_head(TARGET, taps=TAPS, **options)


def same(found: EagleHead, expected: EagleHead) -> None:
    """The same arithmetic and ids."""
    assert found.shape.taps == expected.shape.taps
    assert found.shape.norm_before_residual == expected.shape.norm_before_residual
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert (found.token_ids is None) == (expected.token_ids is None)
    if found.token_ids is not None and expected.token_ids is not None:
        assert found.token_ids.tolist() == expected.token_ids.tolist()
    torch.testing.assert_close(found.rotary_emb.inv_freq, expected.rotary_emb.inv_freq, rtol=0, atol=0)
    states, features = torch.randn(2, 32), torch.randn(2, 32)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return query + key.repeat_interleave(2, dim=-2) * value.repeat_interleave(2, dim=-2)

    outputs = [head.norm(head.midlayer(states, features, attend)) for head in (found, expected)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", PUBLISHED)
@pytest.mark.parametrize("kind", ["reduced", "whole", "tied"])
def test_published_layouts(layout: str, kind: str, tmp_path: Path) -> None:
    ids = {"reduced": OWN_IDS, "whole": range(64), "tied": None}[kind]
    head = head_of(token_ids=ids, has_own_embedding=layout == "speculators")
    PUBLISHED[layout](head, tmp_path)
    found = load_head(tmp_path, num_target_layers=8)
    same(found, head)
    assert not found.training
    assert not any(value.is_meta for value in [*found.parameters(), *found.buffers()])
    assert found.shape.has_own_embedding == (layout == "speculators")


@pytest.mark.parametrize("layout", PUBLISHED)
def test_where_the_residual_starts(layout: str, tmp_path: Path) -> None:
    PUBLISHED[layout](head_of(norm_before_residual=True), tmp_path)
    can_say_it = layout == "speculators"
    assert load_head(tmp_path, num_target_layers=8).shape.norm_before_residual == can_say_it


def test_a_whole_vocabulary_needs_no_map(tmp_path: Path) -> None:
    head = head_of(token_ids=range(64))
    PUBLISHED["specforge"](head, tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        kept = {name: value for name, value in load_file(file).items() if name not in ("d2t", "t2d")}
        save_file(kept, file)
    same(load_head(tmp_path, num_target_layers=8), head)


def test_rows_are_put_in_the_order_of_ids(tmp_path: Path) -> None:
    head = head_of(token_ids=(8, 3, 5))
    save_head(head, tmp_path)
    found = load_head(tmp_path, num_target_layers=8)
    assert found.token_ids is not None
    assert found.lm_head is not None
    assert head.lm_head is not None
    assert found.token_ids.tolist() == [3, 5, 8]
    assert torch.equal(found.lm_head.weight, head.lm_head.weight[[1, 2, 0]])


def test_names_with_a_prefix_and_tables_that_are_computed(tmp_path: Path) -> None:
    head = head_of()
    save_head(head, tmp_path)
    tensors = {f"model.{name}": value for name, value in load_file(tmp_path / "model.safetensors").items()}
    tensors["model.midlayer.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors")
    same(load_head(tmp_path, num_target_layers=8), head)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_the_dtype(dtype: torch.dtype | None, tmp_path: Path) -> None:
    save_head(head_of(token_ids=OWN_IDS).half(), tmp_path)
    found = load_head(tmp_path, num_target_layers=8, dtype=dtype)
    assert {parameter.dtype for parameter in found.parameters()} == {dtype or torch.float16}
    assert found.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"token_ids": OWN_IDS}, {"has_own_embedding": True}, {"attention_bias": True}])
def test_what_is_saved_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    head = tiny_head(TARGET, taps=(0, 3, 8), rope_theta=5000.0, rms_norm_eps=1e-3, norm_before_residual=True, **options)
    save_head(head, tmp_path, target=TARGET, target_name="tiny", provenance={"seed": 1})
    same(load_head(tmp_path, num_target_layers=8), head)
    found = find_head(tmp_path)
    assert (found.description.layout, found.description.target) == ("evodraft", "tiny")
    assert found.description.origin is not None
    assert (found.description.origin.num_layers, len(found.description.origin.sample)) == (8, 64)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["evodraft"]["provenance"] == {"seed": 1}
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_other_engines_read_what_is_saved(tmp_path: Path) -> None:
    """vLLM reads the keys at the top, SGLang those of eagle_config; both want d2t as offsets."""
    save_head(head_of(token_ids=OWN_IDS), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 4, 5]
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 3, 4]
    tensors = load_file(tmp_path / "model.safetensors")
    assert (tensors["d2t"] + torch.arange(5)).tolist() == list(OWN_IDS)
    assert tensors["t2d"].nonzero().flatten().tolist() == list(OWN_IDS)
    without = json.loads(json.dumps(config))
    del without["evodraft"]
    (tmp_path / "config.json").write_text(json.dumps(without))
    assert find_head(tmp_path).description.taps == TAPS, "our own block repeats what the published keys say"


# --- the hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A hub's local cache without the hub: returns the folder of a revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def folder(revision: str) -> Path:
        root = tmp_path / "hub" / "models--owner--head"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(revision, encoding="utf-8")
        return root / "snapshots" / revision

    return folder


def test_a_head_of_the_hub_at_a_revision(hub: Callable[[str], Path]) -> None:
    older, newer = head_of(seed=1), head_of(seed=2, token_ids=OWN_IDS)
    PUBLISHED["specforge"](older, hub("a" * 40))
    PUBLISHED["safeailab"](newer, hub("b" * 40))
    same(load_head("owner/head", num_target_layers=8, revision="a" * 40), older)
    same(load_head("owner/head", num_target_layers=8), newer)


def test_a_head_that_the_hub_does_not_have(hub: Callable[[str], Path]) -> None:
    with pytest.raises(WeightsError, match="cannot read the head owner/other: .*; check name, revision and network"):
        find_head("owner/other")
    hub("a" * 40).mkdir(parents=True)
    with pytest.raises(WeightsError, match="owner/head"):
        find_head("owner/head")


# --- defects ------------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, torch.Tensor]], object], folder: Path, **options: Any) -> None:
    save_head(head_of(**options), folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


DEFECTS: Final[dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], type[Exception], str]]] = {
    "missing": (lambda t: t.pop("norm.weight"), WeightsError, "lacks 1 tensors, first norm.weight"),
    "surplus": (lambda t: t.update(extra=torch.zeros(1)), WeightsError, "has 1 tensors too many, first extra"),
    "query norm": (
        lambda t: t.update({"midlayer.self_attn.q_norm.weight": torch.ones(8)}),
        WeightsError,
        "too many, first midlayer.self_attn.q_norm.weight",
    ),
    "two taps": (
        lambda t: t.update({"fc.weight": torch.zeros(32, 64)}),
        WeightsError,
        r"fc.weight .* has shape \(32, 64\) and config.json says \(32, 96\), of 3 taps of 32",
    ),
    "wrong shape": (lambda t: t.update({"norm.weight": torch.ones(31)}), WeightsError, r"shape \(31,\)"),
    "no hidden_norm": (
        lambda t: t.pop("midlayer.hidden_norm.weight"),
        UnsupportedModelError,
        "EAGLE-1 or EAGLE-2",
    ),
    "two layers": (
        lambda t: t.update({"layers.1.mlp.up_proj.weight": torch.zeros(48, 32)}),
        UnsupportedModelError,
        "it has several layers",
    ),
    "parallel": (lambda t: t.update(mask_hidden=torch.zeros(1, 96)), UnsupportedModelError, "P-EAGLE"),
    "scales": (
        lambda t: t.update({"midlayer.mlp.up_proj.weight_scale": torch.ones(1)}),
        UnsupportedModelError,
        "its weights are quantised",
    ),
    "fp8": (
        lambda t: t.update({"fc.weight": t["fc.weight"].to(torch.float8_e4m3fn)}),
        UnsupportedModelError,
        "fc.weight .* is stored as torch.float8_e4m3fn",
    ),
    "no output matrix": (lambda t: t.pop("lm_head.weight"), WeightsError, r"vocabulary of its own \(5 of 64 ids\)"),
    "no map": (lambda t: t.pop("d2t"), WeightsError, "has 5 rows, the vocabulary has 64, and no d2t"),
    "ids twice": (lambda t: t["d2t"].copy_(torch.tensor([3, 2, 6, 37, 59])), WeightsError, "4 different of 5"),
    "ids outside": (lambda t: t["d2t"].add_(60), WeightsError, "must be different and within 0 .. 63"),
    "one offset for all rows": (lambda t: t.update(d2t=torch.tensor([3])), WeightsError, r"d2t .* has shape \(1,\)"),
    "offsets with fractions": (lambda t: t.update(d2t=t["d2t"].float()), WeightsError, "must be 5 whole numbers"),
    "maps that disagree": (lambda t: t["t2d"].zero_(), WeightsError, "d2t and t2d .* name different ids"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_of_tensors(name: str, tmp_path: Path) -> None:
    change, error, words = DEFECTS[name]
    edited(change, tmp_path, token_ids=OWN_IDS)
    with pytest.raises(error, match=words):
        load_head(tmp_path, num_target_layers=8)


def pickled(change: Callable[[dict[str, torch.Tensor]], object], folder: Path) -> None:
    save_head(head_of(), folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    change(tensors)
    torch.save(tensors, folder / "pytorch_model.bin")


def test_a_view_in_a_pickle_becomes_dense(tmp_path: Path) -> None:
    pickled(lambda t: t.update({"fc.weight": torch.ones(1).expand(32, 96)}), tmp_path)
    assert load_head(tmp_path, num_target_layers=8).fc.weight.is_contiguous()


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    pickled(lambda t: t.update({"fc.weight": t["fc.weight"].to_sparse()}), tmp_path)
    with pytest.raises(UnsupportedModelError, match="fc.weight .* torch.sparse_coo; take a head that is dense"):
        load_head(tmp_path, num_target_layers=8)


def test_a_config_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    save_head(head_of(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "target_hidden_size"), 2**24)
    (tmp_path / "config.json").write_text(json.dumps(config | sizes))
    with pytest.raises(WeightsError, match="config.json says"):
        load_head(tmp_path, num_target_layers=8)


FILES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds none of model.safetensors"),
    "a truncated file": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"), "cannot read the head"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot read the head"),
    "JSON of another kind": (lambda folder: (folder / "config.json").write_text("[]"), "holds a list, not an object"),
}


@pytest.mark.parametrize("name", FILES)
def test_defects_of_files(name: str, tmp_path: Path) -> None:
    damage, words = FILES[name]
    save_head(head_of(), tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightsError, match=words):
        load_head(tmp_path, num_target_layers=8)


@pytest.mark.parametrize(
    ("shard", "words"), [("../secret.safetensors", "outside of its folder"), ("gone.safetensors", "lacks gone")]
)
def test_an_index_names_files_of_its_folder(shard: str, words: str, tmp_path: Path) -> None:
    PUBLISHED["specforge"](head_of(), tmp_path)
    index = {"weight_map": {"fc.weight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=words):
        load_head(tmp_path, num_target_layers=8)


def test_the_files_are_compared_with_a_manifest(tmp_path: Path) -> None:
    save_head(head_of(), tmp_path)
    record = {"file": "model.safetensors", "sha256": "0" * 64, "num_bytes": 1}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({"models": {"head": record}}))
    with pytest.raises(WeightsError, match="expects 1 bytes with SHA-256 000"):
        find_head(tmp_path)


class Touch:
    """Unpickled without care, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("content", ["code", "numbers"])
def test_a_pickle_is_read_as_tensors_and_nothing_else(content: str, tmp_path: Path) -> None:
    PUBLISHED["safeailab"](head_of(), tmp_path)
    marker = tmp_path / "was here"
    torch.save({"fc.weight": Touch(marker) if content == "code" else 5}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="convert it to safetensors"):
        load_head(tmp_path, num_target_layers=8)
    assert not marker.exists()


def test_code_that_a_config_names_is_not_run(tmp_path: Path) -> None:
    save_head(head_of(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, "architectures": ["Own"]}
    (tmp_path / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    assert load_head(tmp_path, num_target_layers=8).shape.taps == TAPS


def test_a_device_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_head(head_of(), tmp_path)

    def full(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("evodraft.drafters.eagle.files.build_head", full)
    with pytest.raises(CapacityError, match="does not fit on the device: no room; take a smaller dtype"):
        load_head(tmp_path, num_target_layers=8)
