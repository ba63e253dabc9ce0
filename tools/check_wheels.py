"""Checks the wheels in a folder: size, and that each holds its package's files, its licence, and nothing else.

    python tools/check_wheels.py dist

Does not know how a wheel is built, or whether what it holds works: `try_wheels.py` installs and runs it.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]


class Rule(NamedTuple):
    """What a wheel may weigh, and where the files that it must hold come from."""

    max_bytes: int
    package: Path  # the folder with the package's sources
    licence: str  # the file that has to come along


RULES = {
    "evodraft": Rule(1_000_000, PROJECT / "src" / "evodraft", "LICENSE"),
    "evodraft_demo": Rule(60_000_000, PROJECT / "demo" / "src" / "evodraft_demo", "NOTICE"),
}


def main(folder: Path) -> int:
    """Prints a line for each wheel and each complaint; 1 if there is a complaint."""
    wheels = {wheel.name.split("-")[0]: wheel for wheel in sorted(folder.glob("*.whl"))}
    complaints = [f"no wheel of {name} in {folder}" for name in RULES if name not in wheels]
    complaints += [
        f"{wheel.name} is of no distribution that has a rule" for n, wheel in wheels.items() if n not in RULES
    ]
    for name in RULES.keys() & wheels.keys():
        complaints += check(wheels[name], RULES[name])
        print(f"{wheels[name].name}: {wheels[name].stat().st_size:,} bytes, limit {RULES[name].max_bytes:,}")
    for complaint in complaints:
        print(f"wrong: {complaint}", file=sys.stderr)
    return int(bool(complaints))


def check(wheel: Path, rule: Rule) -> list[str]:
    """What is wrong with one wheel."""
    size = wheel.stat().st_size
    complaints = [
        f"{wheel.name} has {size:,} bytes, the limit is {rule.max_bytes:,}; leave the largest out, or ship it in a "
        f"distribution of its own: {', '.join(_largest(wheel))}"
    ] * (size > rule.max_bytes)
    with zipfile.ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in names if name.parts[0].endswith(".dist-info")}
    expected = set(_package_files(rule.package))
    if PurePosixPath(rule.package.name, "py.typed") not in expected:
        complaints.append(f"{rule.package} has no py.typed, so that its annotations would be ignored")
    complaints += [f"{wheel.name} lacks {name}" for name in sorted(expected - names)]
    complaints += [
        f"{wheel.name} holds {name}, which is no file of {rule.package.name}"
        for name in sorted(names - expected - metadata)
    ]
    if rule.licence not in {name.name for name in metadata}:
        complaints.append(f"{wheel.name} lacks its {rule.licence}")
    return complaints


def _package_files(package: Path) -> Iterator[PurePosixPath]:
    """What a package consists of, as a wheel names it: everything in its folder except caches."""
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield PurePosixPath(path.relative_to(package.parent).as_posix())


def _largest(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: -entry.compress_size)
    return [f"{entry.filename} ({entry.compress_size:,})" for entry in entries[:3]]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
