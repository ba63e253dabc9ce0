"""Which weights, which machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from evodraft.assemble import LoadedTarget, LoadOptions, load_target
from evodraft.bench.environment import bundle_sha256, describe_machine, describe_model, weights_sha256
from evodraft.testing.tiny import tiny_model


def test_the_demo_is_known_by_its_manifest(bundle: Path) -> None:
    (bundle / "MANIFEST.json").write_text("{}", encoding="utf-8")
    assert weights_sha256("demo") == bundle_sha256() == hashlib.sha256(b"{}").hexdigest()


def test_a_folder_is_known_by_its_weights_and_not_by_its_place(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tiny_model("llama", seed=seed).save_pretrained(tmp_path / name)
        hashes.append(weights_sha256(str(tmp_path / name)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_model_is_described_without_the_place_of_its_folder(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(bundle / "target")
    record = describe_model(folder, load_target(folder, LoadOptions()))
    assert (record.name, record.sha256) == ("target", weights_sha256(folder))
    assert (record.dtype, record.synthetic) == ("float32", None)
    monkeypatch.chdir(folder)
    assert describe_model(".", load_target(".", LoadOptions())).name == "target"


def test_a_hub_model_is_known_by_its_commit() -> None:
    model = tiny_model("llama")
    model.config._commit_hash = "abc123"
    record = describe_model("owner/model", LoadedTarget(model, None))
    assert (record.name, record.sha256) == ("owner/model@abc123", None)


def test_a_synthetic_model_has_no_weights_to_know() -> None:
    record = describe_model("random:tiny", LoadedTarget(tiny_model("llama"), None), "random weights")
    assert (record.name, record.sha256, record.synthetic) == ("random:tiny", None, "random weights")


def test_the_machine_is_described() -> None:
    record = describe_machine(torch.device("cpu"))
    assert record.processor
    assert (record.threads, record.accelerator) == (torch.get_num_threads(), None)
    assert record.num_cores >= 1
    assert record.memory_gib > 0
