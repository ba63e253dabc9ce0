"""Where and with which code a figure was made: processor, versions, commit. Does not know what was measured."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

_DISTRIBUTIONS: Final = ("evodraft", "torch", "transformers")


def processor_name() -> str:
    """What the system calls the processor."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """What Linux calls the features of the first processor; none elsewhere."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def free_memory() -> int | None:
    """Bytes that programs could take without swapping; None where the system does not tell."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _text(Path("/proc/meminfo")), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


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


def _text(file: Path) -> str:
    """What a file of the system says; nothing where there is no such file."""
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # it runs from a checkout that is only on the path
        return "not installed"


def _git(folder: str, *arguments: str) -> str:
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
