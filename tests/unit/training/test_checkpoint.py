"""Checkpoints are complete or absent, and damage is noticed."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import TrainingError, WeightsError
from evodraft.training.checkpoint import (
    OPTIMIZER_FILE,
    PROGRESS_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    check_same,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

CHECKPOINT = Checkpoint({"w": torch.arange(6.0).view(2, 3)}, [{"state": {0: {"step": torch.tensor(3.0)}}}], {"a": 1})


def test_what_is_saved_is_loaded(tmp_path):
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, CHECKPOINT))
    assert torch.equal(loaded.weights["w"], CHECKPOINT.weights["w"])
    assert loaded.optimizer[0]["state"][0]["step"] == 3.0
    assert loaded.progress == {"a": 1}


def test_old_checkpoints_go_and_the_newest_is_found(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 10, 11):
        save_checkpoint(tmp_path, step, CHECKPOINT)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000010", "step-0000011"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-0000011"


def test_a_half_written_checkpoint_is_never_the_latest(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, CHECKPOINT)

    def fail(*_arguments):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, CHECKPOINT)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "step-0000001"


@pytest.mark.parametrize("name", [WEIGHTS_FILE, OPTIMIZER_FILE])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    path = save_checkpoint(tmp_path, 1, CHECKPOINT)
    content = bytearray((path / name).read_bytes())
    if damage == "remove":
        (path / name).unlink()
    else:
        content[-1] ^= 1
        (path / name).write_bytes(content if damage == "flip" else content[:-8])
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        load_checkpoint(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": {}}'])
def test_a_damaged_record_is_named(tmp_path, content):
    path = save_checkpoint(tmp_path, 1, CHECKPOINT)
    (path / PROGRESS_FILE).write_text(content)
    with pytest.raises(WeightsError, match=r"progress\.json is unreadable"):
        load_checkpoint(path)


def test_a_difference_names_both_values():
    check_same("data", 1, 1)
    with pytest.raises(TrainingError, match="data is 1, this run's is 2"):
        check_same("data", 1, 2)
