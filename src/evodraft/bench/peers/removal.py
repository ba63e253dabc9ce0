"""Takes packages out of a peer's environment that its requirements pull in though they fit no CPU build of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evodraft.bench.peers.steps import run_step


def removing(peer: str, *packages: str) -> Callable[[Path, Callable[[str], None]], None]:
    """A last step of installation, as `Peer.finish` wants it; packages that are not there are passed over.

    The step raises BenchError if pip fails.
    """

    def finish(environment: Path, say: Callable[[str], None]) -> None:
        say(f"{peer}: removing {', '.join(packages)}")
        python = str(environment / "bin" / "python")
        command = [python, "-m", "pip", "--disable-pip-version-check", "uninstall", "--yes", *packages]
        run_step(peer, command, say, lambda line: False)

    return finish
