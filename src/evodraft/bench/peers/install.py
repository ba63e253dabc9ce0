"""Makes the virtual environment of a peer from its pinned requirements. Does not know what a peer can do.

An environment counts as installed when its stamp names the pins that lie beside it now; the stamp is written last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evodraft.bench.peers.steps import run_step
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.bench.peers.base import Peer

TORCH_INDEX_URL: Final = "TORCH_INDEX_URL"  # environment variable: where torch comes from, as in the Makefile
_STAMP: Final = ".evodraft-installed"
_SHOWN: Final = ("Collecting ", "Building wheel", "Installing collected", "Successfully installed")  # of pip's lines
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off")


def environment_of(peer: Peer, folder: Path) -> Path:
    """Where the environment of a peer lies, installed or not."""
    return folder.absolute() / f".venv-{peer.name}"


def python_of(peer: Peer, folder: Path) -> Path:
    """The interpreter of a peer's environment."""
    return environment_of(peer, folder) / "bin" / "python"


def installed(peer: Peer, folder: Path) -> bool:
    """Whether the environment is complete and made from the pins that `folder` holds now."""
    stamp = environment_of(peer, folder) / _STAMP
    pins = folder / peer.requirements
    return stamp.is_file() and pins.is_file() and stamp.read_text(encoding="utf-8") == _digest(pins)


def install(peer: Peer, folder: Path, say: Callable[[str], None]) -> None:
    """Makes `folder/.venv-NAME` anew with the running Python's version; `say` is told every step.

    torch comes first and alone, from TORCH_INDEX_URL if that is set; everything else may not replace it.
    Raises BenchError with the last lines of what failed; then the environment does not count as installed.
    """
    pins = folder / peer.requirements
    if not pins.is_file():
        raise BenchError(
            f"peer {peer.name}: no {pins}; name the folder that holds {peer.requirements} "
            "(benchmarks/peers in a checkout of evodraft)"
        )
    if installed(peer, folder):
        say(f"{peer.name}: already installed in {environment_of(peer, folder)}")
        return
    environment, python = environment_of(peer, folder), python_of(peer, folder)
    say(f"{peer.name}: making {environment}")
    shutil.rmtree(environment, ignore_errors=True)
    _run(peer, [sys.executable, "-m", "venv", str(environment)], say)
    constraint = _install_torch(peer, pins, python, say)
    say(f"{peer.name}: installing {pins.name}")
    _run(peer, [str(python), *_PIP, "--requirement", str(pins), *constraint], say)
    if peer.finish is not None:
        _finish(peer, peer.finish, environment, say)
    (environment / _STAMP).write_text(_digest(pins), encoding="utf-8")
    say(f"{peer.name}: installed")


def _install_torch(peer: Peer, pins: Path, python: Path, say: Callable[[str], None]) -> list[str]:
    """Installs torch if it is pinned; returns what holds pip to that very build ("2.13.0+cpu") from then on."""
    lines = (line.partition("#")[0].strip() for line in pins.read_text(encoding="utf-8").splitlines())
    pin = next((line for line in lines if line.startswith("torch==")), None)
    if pin is None:
        return []
    index = os.environ.get(TORCH_INDEX_URL)
    say(f"{peer.name}: installing {pin} from {index or 'the default index'} (large; may take minutes)")
    _run(peer, [str(python), *_PIP, *(["--index-url", index] if index else []), pin], say)
    asked = [str(python), "-c", "import importlib.metadata as m; print('torch==' + m.version('torch'))"]
    constraints = environment_of(peer, pins.parent) / "torch.txt"
    constraints.write_text(_run(peer, asked, say)[-1] + "\n", encoding="utf-8")
    return ["--constraint", str(constraints)]


def _finish(
    peer: Peer, finish: Callable[[Path, Callable[[str], None]], None], environment: Path, say: Callable[[str], None]
) -> None:
    try:
        finish(environment, say)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"peer {peer.name}: its last step of installation failed: {error}") from error


def _run(peer: Peer, command: Sequence[str], say: Callable[[str], None]) -> Sequence[str]:
    return run_step(peer.name, command, say, lambda line: line.startswith(_SHOWN))


def _digest(pins: Path) -> str:
    return hashlib.sha256(pins.read_bytes()).hexdigest()
