"""Checks that files can be committed: clean ends of lines, not large by accident, no path of somebody's machine.

    python tools/check_files.py [FILE ...]

Without names, all files that git tracks or would add. Does not know what is in a file; code has ruff and mypy.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
MAX_BYTES = 500_000
# The bundled models: large on purpose, and written by programs that end a file as they like.
BUNDLE = tuple(f"demo/src/evodraft_demo/{name}/" for name in ("draft", "target", "eagle", "eagle_general"))
# Where Linux, macOS and Windows keep what belongs to one person.
_HOME = re.compile(r"(?<![\w.-])(?:/home/[a-z]|/Users/[A-Za-z]|/(?:root)/|[A-Z]:\\+Users\\)")


def main(names: list[str]) -> int:
    """Prints every complaint; 1 if there is one."""
    complaints = [complaint for name in names or _committable() for complaint in check(PROJECT, name)]
    print(*complaints, sep="\n", end="\n" if complaints else "", file=sys.stderr)
    return int(bool(complaints))


def check(project: Path, name: str) -> list[str]:
    """What is wrong with one file; `name` is relative to the project, with "/"."""
    content = (project / name).read_bytes()
    complaints = []
    if not name.startswith(BUNDLE):
        if len(content) > MAX_BYTES:
            complaints.append(f"{name} has {len(content):,} bytes, the limit is {MAX_BYTES:,}; git keeps it for ever")
        if content and (not content.endswith(b"\n") or content.endswith(b"\n\n")):
            complaints.append(f"{name} does not end with one newline")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return complaints  # no text
    return complaints + [
        f"{name}:{number} {complaint}"
        for number, line in enumerate(lines, start=1)
        for complaint in _line_complaints(line, project)
    ]


def _line_complaints(line: str, project: Path) -> Iterator[str]:
    if line.endswith("\r"):
        yield "ends with CR LF; write LF"
    elif line != line.rstrip():
        yield "has white space at its end"
    if _HOME.search(line) or f"{project}/" in line:
        yield "names a folder of one machine; make it relative"


def _committable() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.decode("utf-8")
    return [name for name in sorted(set(listed.split("\0"))) if (PROJECT / name).is_file()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
