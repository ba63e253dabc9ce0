"""Says whether a tag may become a release, and prints its section of the changelog as the release notes.

    python tools/release.py v0.1.0 > notes.md

Does not know where a release is published.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


def main(tag: str, project: Path = PROJECT) -> int:
    """Prints the notes, or what has to be put right first."""
    version = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changelog = (project / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (project / "CITATION.cff").read_text(encoding="utf-8")
    complaints = disagreements(tag, version, changelog, citation)
    for complaint in complaints:
        print(f"wrong: {complaint}", file=sys.stderr)
    if complaints:
        return 1
    print(notes(changelog, version))
    return 0


def disagreements(tag: str, version: str, changelog: str, citation: str) -> list[str]:
    """Where tag, pyproject.toml, changelog and citation do not name the same released version."""
    complaints = []
    if tag != f"v{version}":
        complaints.append(f"the tag is {tag}, pyproject.toml says {version}: the tag must be v{version}")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        complaints.append(f"{version} is no released version: set MAJOR.MINOR.PATCH in pyproject.toml")
    if f"version: {version}\n" not in citation:
        complaints.append(f"CITATION.cff has no line 'version: {version}'")
    dates = {heading["version"]: heading["date"] for heading in _HEADING.finditer(changelog)}
    if not dates.get(version):
        complaints.append(f"CHANGELOG.md has no heading '## [{version}] - YYYY-MM-DD'")
    elif not notes(changelog, version):
        complaints.append(f"CHANGELOG.md says nothing under {version}")
    return complaints


def notes(changelog: str, version: str) -> str:
    """The text under a version's heading, up to the next version."""
    headings = [*_HEADING.finditer(changelog)]
    number = next(n for n, heading in enumerate(headings) if heading["version"] == version)
    end = headings[number + 1].start() if number + 1 < len(headings) else len(changelog)
    return changelog[headings[number].end() : end].strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
