"""Taking packages out of an environment, with a short script in the place of its Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from evodraft.bench.peers import PEERS
from evodraft.bench.peers.removal import removing
from evodraft.errors import BenchError


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Its Python notes what it is asked, and fails if a package is called "stuck"."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncase "$*" in *stuck*) echo no; exit 3;; esac\n')
    python.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("peer", "packages"),
    [("openvino", ["torchvision"]), ("vllm", ["torchvision", "torchaudio", "torchcodec", "triton"])],
)
def test_peers_remove_what_fits_no_cpu_build_of_torch(environment: Path, peer: str, packages: list[str]) -> None:
    finish = PEERS[peer].finish
    assert finish is not None
    said: list[str] = []
    finish(environment, said.append)
    asked = (environment / "asked").read_text().split()
    assert asked[:2] == ["-m", "pip"]
    assert asked[asked.index("uninstall") :] == ["uninstall", "--yes", *packages]
    assert said == [f"{peer}: removing {', '.join(packages)}"]


def test_a_failure_is_told_with_what_pip_said(environment: Path) -> None:
    with pytest.raises(BenchError, match=r"peer someone: .*exit code 3.*\n  no"):
        removing("someone", "stuck")(environment, lambda line: None)
