"""Prints constraints that make pip install the oldest dependencies that pyproject.toml accepts.

    python tools/oldest.py > oldest.txt

Development tools keep the versions of constraints.txt. Does not know whether the suite passes with them: `make oldest`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)>=(?P<lowest>[0-9][0-9.]*)")


def oldest(requirements: list[str], constraints: str) -> list[str]:
    """Lines `name==version`. Raises ValueError for a requirement that names no oldest version."""
    lowest = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None:
            raise ValueError(f"{requirement!r} names no oldest version; write 'name>=version'")
        lowest[match["name"]] = match["lowest"]
    lines = [line for line in constraints.splitlines() if "==" in line and line.split("==")[0] not in lowest]
    return sorted([*lines, *(f"{name}=={version}" for name, version in lowest.items())])


def main() -> int:
    """Prints them for this project."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    print(*oldest(project["dependencies"], constraints), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
