"""Records of how weights came to be."""

from __future__ import annotations

import json
import subprocess

from evodraft.training.provenance import HeldOut, describe_run

LOSSES = HeldOut({"math": 1.5}, {"0-63": 1.75})


def test_a_record_is_json_and_holds_no_folder_of_this_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "target", "--out", "/some/where/models/target"])
    record = describe_run("abc", {"seed": 0}, LOSSES, 12.34, 100).as_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == "python -m evodraft.training target --out target"
    assert record["seconds"] == 12.3
    assert (record["losses"], record["position_losses"]) == LOSSES
    assert record["num_threads"] == 1
    assert record["processor"]


def test_a_tree_without_commits_has_no_commit(monkeypatch):
    def fail(*_arguments, **_options):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert describe_run("abc", {}, LOSSES, 0.0, 0).commit is None
