"""A tag becomes a release only if everything that names a version names the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import release
from release import disagreements, notes

CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2027-01-31

### Added

- Something.

## [0.1.0] - 2026-12-24

- The first.
"""
CITATION = "title: x\nversion: 0.2.0\nlicense: y\n"


def test_agreement() -> None:
    assert disagreements("v0.2.0", "0.2.0", CHANGELOG, CITATION) == []


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "citation", "complaint"),
    [
        ("v0.2.1", "0.2.0", CHANGELOG, CITATION, "the tag must be v0.2.0"),
        ("0.2.0", "0.2.0", CHANGELOG, CITATION, "the tag is 0.2.0"),
        ("v0.2.0", "0.2.0", CHANGELOG.replace(" - 2027-01-31", ""), CITATION, "no heading '## [0.2.0] - YYYY-MM-DD'"),
        (
            "v0.2.0",
            "0.2.0",
            CHANGELOG.replace("### Added\n\n- Something.\n\n", ""),
            CITATION,
            "says nothing under 0.2.0",
        ),
        ("v0.2.0", "0.2.0", CHANGELOG, "version: 0.2.0.dev0\n", "CITATION.cff has no line 'version: 0.2.0'"),
        (
            "v0.2.0.dev0",
            "0.2.0.dev0",
            CHANGELOG.replace("0.2.0", "0.2.0.dev0"),
            "version: 0.2.0.dev0\n",
            "0.2.0.dev0 is no released version",
        ),
    ],
)
def test_disagreement(tag: str, version: str, changelog: str, citation: str, complaint: str) -> None:
    [found] = disagreements(tag, version, changelog, citation)
    assert complaint in found


def test_notes_are_the_section_of_the_version() -> None:
    assert notes(CHANGELOG, "0.2.0") == "### Added\n\n- Something."
    assert notes(CHANGELOG, "0.1.0") == "- The first."


def test_the_script_prints_notes_or_complaints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nversion = '0.2.0'\n", encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text(CITATION, encoding="utf-8")
    assert release.main("v0.2.0", tmp_path) == 0
    assert capsys.readouterr().out == "### Added\n\n- Something.\n"
    assert release.main("v0.3.0", tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "wrong: the tag is v0.3.0" in captured.err


def test_this_project_is_ready_but_for_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The files have the form that the script reads: it finds the version that they name."""
    import tomllib

    project = tomllib.loads((release.PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    release.main(f"v{project['version']}")
    complaints = capsys.readouterr().err
    assert "the tag is" not in complaints
    assert "CITATION.cff" not in complaints
