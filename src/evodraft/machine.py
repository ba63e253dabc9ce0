"""Where and with which code a figure was made: processor, versions, commit. Does not know what was measured."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

_DISTRIBUTIONS: Final = ("evodraft", "torch", "transformers")


def processor_name() -> str:
    """What the system calls the processor."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def software_versions() -> dict[str, str]:
    """Name -> version of system, Python and the packages that decide what a model says."""
    return {
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _DISTRIBUTIONS},
    }


def source_commit() -> str | None:
    """The commit of the checkout this code runs from, with "+" if tracked files differ from it; None outside of one."""
    folder = str(Path(__file__).parent)
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # it runs from a checkout that is only on the path
        return "not installed"


def _git(folder: str, *arguments: str) -> str:
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
