"""Atomic checkpoints: a folder `step-<n>` with weights, optimizer state and progress, complete or absent.

Does not know: what a step is, or how the state it stores is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evodraft.errors import TrainingError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS_FILE, OPTIMIZER_FILE, PROGRESS_FILE = "model.safetensors", "optimizer.pt", "progress.json"


class Checkpoint(NamedTuple):
    """Everything a run needs to continue. `progress` holds JSON values only."""

    weights: dict[str, torch.Tensor]
    optimizer: list[dict[str, Any]]
    progress: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `folder/step-<step>` and delete all but the newest `keep`. A crash leaves no half-written checkpoint."""
    from safetensors.torch import save_file

    final, partial = folder / f"step-{step:07d}", folder / f"partial-{step:07d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in checkpoint.weights.items()}, partial / WEIGHTS_FILE)
    torch.save(checkpoint.optimizer, partial / OPTIMIZER_FILE)
    hashes = {name: hash_file(partial / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
    record = {"step": step, "sha256": hashes, "progress": checkpoint.progress}
    (partial / PROGRESS_FILE).write_text(json.dumps(record), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, or None."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises `WeightsError` when a file is missing, truncated or altered."""
    from safetensors.torch import load_file

    try:
        record = json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))
        expected = dict(record["sha256"])
        progress = dict(record["progress"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path / PROGRESS_FILE} is unreadable ({error}); resume from an earlier step") from error
    for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
        _verify(path / name, expected.get(name))
    optimizer = torch.load(path / OPTIMIZER_FILE, weights_only=True)
    return Checkpoint(load_file(path / WEIGHTS_FILE), optimizer, progress)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_same(name: str, saved: object, present: object) -> None:
    """Raise `TrainingError` when a run is resumed under another `name` (data, recipe) than it began with."""
    if saved != present:
        raise TrainingError(f"the checkpoint's {name} is {saved!r}, this run's is {present!r}; use another folder")


def _verify(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing; resume from an earlier step")
    if hash_file(path) != expected:
        raise WeightsError(f"{path} does not match its recorded SHA-256; it is damaged, resume from an earlier step")
