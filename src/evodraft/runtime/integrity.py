"""A model's files against the hashes that a manifest lists, before anything reads them.

A manifest, MANIFEST.json, lies in a model's folder or beside it, where it serves several models. It finds accidents:
a copy that broke off, files renamed or exchanged. Who can write to the folder can write the manifest too.

This module does not know models, nor what is in the files beyond whether they open.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import torch
from safetensors import safe_open

from evodraft.errors import WeightsError

MANIFEST_FILE: Final = "MANIFEST.json"


class FileRecord(NamedTuple):
    """What a file holds."""

    sha256: str  # hexadecimal
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.num_bytes} bytes with SHA-256 {self.sha256}"


def record_of(path: Path) -> FileRecord | None:
    """The record of a file, None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return FileRecord(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def check_folder(folder: Path) -> None:
    """Raises WeightsError unless the files of a model's folder are those that manifests in it and beside it list.

    Files that no manifest lists are not looked at.
    """
    folder = Path(os.path.abspath(folder))
    for root in (folder, folder.parent):
        check_manifest(root, within=folder)
    for index in sorted(folder.glob("*.index.json")):
        _check_names(index, _shards(index))


def check_manifest(root: Path, within: Path | None = None) -> None:
    """Raises WeightsError unless the files that `root/MANIFEST.json` lists are there with their hashes.

    With `within`, only those in that folder are looked at. Without a manifest there is nothing to check.
    """
    records = _read_manifest(root / MANIFEST_FILE)
    for name, expected in records.items():
        path = root / name
        if within is None or path.is_relative_to(within):
            found = record_of(path)
            if found != expected:
                raise WeightsError(_complaint(root, name, found, records))


def damaged_file(folder: Path) -> Path | None:
    """The first weights file that does not open, None if all do. Pickles count where there are no safetensors."""
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        try:
            _open(file)
        except Exception:  # unpicklers may raise anything
            return file
    return None


def _open(file: Path) -> None:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            return
    torch.load(file, map_location="meta", weights_only=True)


def _read_manifest(path: Path) -> Mapping[str, FileRecord]:
    """What a manifest lists by path, relative to its folder; nothing where there is none, or one of other software."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "models" not in content:
            return {}
        listed: dict[str, Any] = {str(record["file"]): record for record in content["models"].values()}
        listed |= content.get("files", {})
        records = {name: FileRecord(str(r["sha256"]), int(r["num_bytes"])) for name, r in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} cannot be read as a manifest ({type(error).__name__}: {error}); {_remedy(path.parent)}"
        ) from error
    _check_names(path, records)
    return records


def _shards(index: Path) -> set[str]:
    """The files that the index of a model in several files names."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} cannot be read as an index of weights ({type(error).__name__}: {error}); {_remedy(index.parent)}"
        ) from error


def _check_names(listing: Path, names: Iterable[str]) -> None:
    """A listing comes with the model, so it may name files of the model's folder only."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise WeightsError(f"{listing} names {name!r}, which is outside of its folder; use files that you trust")


def _complaint(root: Path, name: str, found: FileRecord | None, records: Mapping[str, FileRecord]) -> str:
    """What is there, what should be, where both belong, and what to do."""
    path, expected = root / name, records[name]
    there = "is missing" if found is None else f"has {found}"
    owner = next((f"it holds what belongs in {other}; " for other, record in records.items() if record == found), "")
    place = _place_of(expected, path, {root / other: record for other, record in records.items()})
    remedy = _remedy(root) if place is None else f"{place} holds what belongs here: move it back"
    return f"{path} {there}, but {root / MANIFEST_FILE} expects {expected}; {owner}{remedy}"


def _place_of(wanted: FileRecord, missed_at: Path, listed: Mapping[Path, FileRecord]) -> Path | None:
    """A file near by that holds what another should, and is not itself meant to."""
    neighbours = set(missed_at.parent.iterdir()) if missed_at.parent.is_dir() else set()
    for place in sorted(neighbours | set(listed)):
        is_candidate = listed.get(place) != wanted and place.is_file() and place.stat().st_size == wanted.num_bytes
        if is_candidate and record_of(place) == wanted:
            return place
    return None


def _remedy(root: Path) -> str:
    if (root / "__init__.py").is_file():
        return f"install the package {root.name} again"
    return "copy or download the files again"
