"""A file that is not what its manifest says is named, with what is there, what should be, and where that is."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evodraft import LLM
from evodraft.errors import WeightsError
from evodraft.runtime.integrity import MANIFEST_FILE, FileRecord, check_folder, check_manifest, record_of

TARGET, DRAFT = "target/model.safetensors", "draft/model.safetensors"
CONTENTS = {
    TARGET: b"target weights" * 100,
    DRAFT: b"draft weights" * 10,
    "target/tokenizer.json": b"{'a': 1}",
    "draft/tokenizer.json": b"{'a': 1}",
    "target/config.json": b"{}",
}


def expected(path: Path) -> str:
    content = path.read_bytes()
    return f"{len(content)} bytes with SHA-256 {hashlib.sha256(content).hexdigest()}"


def write_manifest(root: Path, *, has_all_files: bool) -> None:
    """As `evodraft.training.bundle` writes it, without the provenance."""
    records = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
        for name, content in CONTENTS.items()
    }
    models = {name.split("/")[0]: {"file": name, **records[name]} for name in (TARGET, DRAFT)}
    manifest = {"format": 1, "models": models} | ({"files": records} if has_all_files else {})
    (root / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two models and their manifest; what the files hold does not matter here."""
    for name, content in CONTENTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path, has_all_files=True)
    return tmp_path


# --- damage, and the message about it -----------------------------------------------------------------------------


def remove(root: Path) -> None:
    (root / TARGET).unlink()


def rename(root: Path) -> None:
    (root / TARGET).rename(root / "target/weights.safetensors")


def truncate(root: Path) -> None:
    os.truncate(root / TARGET, (root / TARGET).stat().st_size // 2)


def alter_one_byte(root: Path) -> None:
    with (root / TARGET).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def swap(root: Path) -> None:
    (root / TARGET).rename(root / "between")
    (root / DRAFT).rename(root / TARGET)
    (root / "between").rename(root / DRAFT)


def copy_draft_over_target(root: Path) -> None:
    shutil.copyfile(root / DRAFT, root / TARGET)


DAMAGES: dict[Callable[[Path], None], str] = {
    remove: "{target} is missing, but {manifest} expects {expected}; {remedy}",
    rename: "{target} is missing, but {manifest} expects {expected}; "
    "{root}/target/weights.safetensors holds what belongs here: move it back",
    truncate: "{target} has {found}, but {manifest} expects {expected}; {remedy}",
    alter_one_byte: "{target} has {found}, but {manifest} expects {expected}; {remedy}",
    swap: "{target} has {found}, but {manifest} expects {expected}; it holds what belongs in draft/model.safetensors; "
    "{root}/draft/model.safetensors holds what belongs here: move it back",
    copy_draft_over_target: "{target} has {found}, but {manifest} expects {expected}; "
    "it holds what belongs in draft/model.safetensors; {remedy}",
}


def message_after(damage: Callable[[Path], None], root: Path, remedy: str) -> str:
    """Does the damage; returns what must be said about it."""
    target, before = root / TARGET, expected(root / TARGET)
    damage(root)
    return DAMAGES[damage].format(
        root=root,
        target=target,
        manifest=root / MANIFEST_FILE,
        expected=before,
        found=expected(target) if target.exists() else None,
        remedy=remedy,
    )


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("has_all_files", [True, False])
def test_damage_is_named(bundle: Path, damage: Callable[[Path], None], has_all_files: bool) -> None:
    write_manifest(bundle, has_all_files=has_all_files)
    check_folder(bundle / "target")
    message = message_after(damage, bundle, "copy or download the files again")
    for check in (lambda: check_folder(bundle / "target"), lambda: check_folder(bundle / "draft/../target")):
        with pytest.raises(WeightsError) as raised:
            check()
        assert str(raised.value) == message


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_to_the_demo_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """The bundle that is installed, damaged: nothing is loaded."""
    root = Path(shutil.copytree(str(importlib.resources.files("evodraft_demo")), tmp_path / "evodraft_demo"))
    monkeypatch.setattr(importlib.resources, "files", lambda _: root)
    message = message_after(damage, root, "install the package evodraft_demo again")
    with pytest.raises(WeightsError) as raised:
        LLM.from_pretrained("demo")
    assert str(raised.value) == message


@pytest.mark.parametrize(("drafter", "folder"), [("model", "draft"), ("eagle", "eagle"), ("auto", "eagle")])
def test_a_damaged_drafter_of_the_demo_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drafter: str, folder: str
) -> None:
    weights = f"{folder}/model.safetensors"
    root = Path(shutil.copytree(str(importlib.resources.files("evodraft_demo")), tmp_path / "evodraft_demo"))
    monkeypatch.setattr(importlib.resources, "files", lambda _: root)
    before = expected(root / weights)
    os.truncate(root / weights, 1000)
    LLM.from_pretrained("demo", drafter=None, device="cpu").close()
    with pytest.raises(WeightsError, match=f"{weights} has 1000 bytes .* expects {before}"):
        LLM.from_pretrained("demo", drafter=drafter, device="cpu")


def test_the_demo_is_what_its_manifest_says() -> None:
    root = Path(str(importlib.resources.files("evodraft_demo")))
    assert (root / MANIFEST_FILE).is_file()
    check_manifest(root)


# --- which files --------------------------------------------------------------------------------------------------


def test_other_files_count_where_the_manifest_lists_them(bundle: Path) -> None:
    (bundle / "target/tokenizer.json").write_bytes(b"{'a': 2}")
    check_folder(bundle / "draft")
    with pytest.raises(WeightsError, match=r"target/tokenizer.json has 8 bytes .* again$"):
        check_folder(bundle / "target")
    write_manifest(bundle, has_all_files=False)
    check_folder(bundle / "target")


def test_a_file_that_is_right_where_it_is_is_not_offered(bundle: Path) -> None:
    """Both tokenizers hold the same; moving the draft's would only tear the next hole."""
    (bundle / "target/tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"tokenizer.json is missing.*; copy or download the files again$"):
        check_folder(bundle / "target")


def test_a_manifest_in_the_folder_itself(bundle: Path) -> None:
    record = record_of(bundle / TARGET)
    (bundle / MANIFEST_FILE).unlink()
    content = {"models": {}, "files": {"model.safetensors": record._asdict()}}
    (bundle / "target" / MANIFEST_FILE).write_text(json.dumps(content))
    check_folder(bundle / "target")
    truncate(bundle)
    with pytest.raises(WeightsError, match=rf"target/{MANIFEST_FILE} expects {record}"):
        check_folder(bundle / "target")


def test_all_models_of_a_manifest(bundle: Path) -> None:
    check_manifest(bundle)
    shutil.rmtree(bundle / "draft")
    check_folder(bundle / "target")
    with pytest.raises(WeightsError, match="draft/model.safetensors is missing"):
        check_manifest(bundle)


def test_without_a_manifest_of_ours_there_is_nothing_to_compare(bundle: Path) -> None:
    truncate(bundle)
    for content in ('{"name": "of other software"}', "[1]"):
        (bundle / MANIFEST_FILE).write_text(content)
        check_folder(bundle / "target")
    (bundle / MANIFEST_FILE).unlink()
    check_folder(bundle / "target")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"models": 3}',
        '{"models": {"target": 3}}',
        '{"models": {"target": {"file": "target/model.safetensors"}}}',
        '{"models": {}, "files": {"target/config.json": {"sha256": "a", "num_bytes": "many"}}}',
        '{"models": {}, "files": 3}',
    ],
)
def test_a_broken_manifest_is_named(bundle: Path, content: str) -> None:
    (bundle / MANIFEST_FILE).write_text(content)
    with pytest.raises(WeightsError, match=rf"{MANIFEST_FILE} cannot be read as a manifest \(.*; copy or download"):
        check_folder(bundle / "target")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "target/../../secret"])
def test_a_manifest_names_no_file_outside(bundle: Path, name: str) -> None:
    content = {"models": {}, "files": {name: FileRecord("0" * 64, 1)._asdict()}}
    (bundle / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=rf"names '{re.escape(name)}', which is outside of its folder"):
        check_folder(bundle / "target")


@pytest.mark.parametrize("name", ["/etc/passwd", "../draft/model.safetensors"])
def test_an_index_of_shards_names_no_file_outside(bundle: Path, name: str) -> None:
    index = bundle / "target/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": name}}))
    with pytest.raises(WeightsError, match=rf"index.json names '{re.escape(name)}', which is outside of its folder"):
        check_folder(bundle / "target")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_of_shards_is_named(bundle: Path, content: str) -> None:
    (bundle / "target/model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"index.json cannot be read as an index of weights \("):
        check_folder(bundle / "target")
