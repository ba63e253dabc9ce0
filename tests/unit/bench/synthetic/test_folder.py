"""Random weights on a disk: written once and whole, found again, repaired, and refused where there is no room."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoTokenizer

from evodraft.bench.synthetic import folder as module
from evodraft.bench.synthetic import random_pair, stored_pair
from evodraft.bench.synthetic.folder import cache_folder, stored
from evodraft.bench.synthetic.pair import Recipe
from evodraft.errors import BenchError
from evodraft.runtime.integrity import check_manifest

TINY = Recipe("tiny", 4, torch.bfloat16, 0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evodraft" / "synthetic"


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_folder_holds_the_weights_a_tokenizer_and_a_manifest(cache: Path) -> None:
    found = stored_pair("tiny", "float32", "cpu")
    assert found.folder.parent == cache
    assert found.folder.name.startswith("tiny-float32-")
    assert [path.name for path in cache.iterdir()] == [found.folder.name]
    check_manifest(found.folder)
    manifest = json.loads((found.folder / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["synthetic"] == found.pair.note == "random weights in the shape of tiny"
    assert set(manifest["files"]) | {"MANIFEST.json"} == {path.name for path in found.folder.iterdir()}
    config = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    assert (config["architectures"], config["dtype"], config["eos_token_id"]) == (["LlamaForCausalLM"], "float32", None)
    assert AutoTokenizer.from_pretrained(found.folder).chat_template


def test_the_pair_is_the_one_that_is_made_without_a_folder() -> None:
    found, made = stored_pair("tiny", "auto", "cpu").pair, random_pair("tiny", "auto", "cpu")
    assert (found.note, found.num_layers, found.cost_ratio) == (made.note, made.num_layers, made.cost_ratio)
    assert found.target.tokenizer is None
    assert found.target.eos_token_ids == frozenset()
    for one, other in ((found.target.model, made.target.model), (found.draft, made.draft)):
        weights = other.state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in one.state_dict().items())
        assert one.dtype == torch.bfloat16


def test_it_is_written_once_and_again_where_it_is_damaged(cache: Path) -> None:
    folder = stored(TINY)
    before = stamps(folder)
    assert stored(TINY) == folder
    assert stamps(folder) == before
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert stored(TINY) == folder
    check_manifest(folder)
    assert stamps(folder) != before
    (folder / "MANIFEST.json").unlink()
    stored(TINY)
    assert (folder / "MANIFEST.json").is_file()
    assert list(cache.iterdir()) == [folder]


@pytest.mark.parametrize("change", [{"num_layers": 2}, {"dtype": torch.float32}, {"seed": 1}])
def test_other_weights_lie_elsewhere(change: dict[str, Any]) -> None:
    assert stored(TINY._replace(**change)) != stored(TINY)


def test_a_recipe_that_was_cut_says_so() -> None:
    assert TINY._replace(num_layers=2).note == "random weights in the shape of tiny, 2 of 4 layers"


def test_more_copies_mean_fewer_layers_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine(NamedTuple):
        free_bytes: int

    monkeypatch.setattr("evodraft.bench.synthetic.pair.read_machine", lambda place: Machine(560_000))
    assert stored_pair("tiny", "float32", "cpu", num_copies=1).pair.num_layers == 4
    assert stored_pair("tiny", "float32", "cpu", num_copies=2).pair.num_layers == 2


def test_nothing_stays_behind_if_writing_fails(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(folder: Path, recipe: Recipe) -> None:
        folder.mkdir()
        (folder / "half").write_text("", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", breaks)
    with pytest.raises(BenchError, match="cannot write random weights to .*tiny-.*No space left on device.*XDG_CACHE"):
        stored(TINY)
    assert list(cache.iterdir()) == []


def test_another_process_may_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    write = module._write

    def slowly(folder: Path, recipe: Recipe) -> None:
        write(folder, recipe)
        shutil.copytree(folder, folder.parents[1] / folder.name)

    monkeypatch.setattr(module, "_write", slowly)
    check_manifest(stored(TINY))


def test_a_disk_without_room_is_named_before_anything_is_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(BenchError, match="random weights in the shape of tiny take 0.0 GiB and 0.0 GiB are free in"):
        stored(TINY)
    assert list(cache.iterdir()) == []


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder({}) == cache_folder({"XDG_CACHE_HOME": "not/absolute"}) == tmp_path / ".cache" / "evodraft"
