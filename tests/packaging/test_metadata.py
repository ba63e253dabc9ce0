"""pyproject.toml says what is true of the sources; so does that of the second distribution."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


def metadata(path: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((PROJECT / path).read_text(encoding="utf-8"))["project"]
    return project


CORE, DEMO = metadata("pyproject.toml"), metadata("demo/pyproject.toml")


def imported(folder: Path) -> set[str]:
    """Top-level names of everything that the sources below `folder` import."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    return found


def test_no_dependency_is_declared_in_vain() -> None:
    """That none is missing: test_import_all.py, and `undeclared_dependencies` in tests/test_architecture.py."""
    declared = {re.split(r"[<>=]", requirement)[0] for requirement in CORE["dependencies"]}
    assert declared - imported(PROJECT / "src") == set()


def test_the_demo_needs_nothing() -> None:
    assert DEMO["dependencies"] == []
    assert imported(PROJECT / "demo" / "src") <= {"__future__", "functools", "importlib", "json", "pathlib", "typing"}


@pytest.mark.parametrize("project", [CORE, DEMO], ids=lambda project: project["name"])
def test_python_versions(project: dict[str, Any]) -> None:
    assert project["requires-python"] == ">=3.11"
    assert "Typing :: Typed" in project["classifiers"]


def test_the_lowest_python_is_the_one_that_tools_check_for() -> None:
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert (tools["mypy"]["python_version"], tools["ruff"]["target-version"]) == ("3.11", "py311")
    assert min(versions(CORE["classifiers"])) == (3, 11)


def versions(classifiers: list[str]) -> list[tuple[int, int]]:
    pattern = re.compile(r"Programming Language :: Python :: (\d+)\.(\d+)")
    return [(int(match[1]), int(match[2])) for match in map(pattern.fullmatch, classifiers) if match]


def test_licences_are_where_they_are_said_to_be() -> None:
    assert (CORE["license"], CORE["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert (DEMO["license"], DEMO["license-files"]) == ("CC-BY-SA-4.0", ["NOTICE"])
    assert (PROJECT / "LICENSE").is_file()
    assert (PROJECT / "demo" / "NOTICE").is_file()


def test_the_command_leads_somewhere() -> None:
    from importlib.metadata import entry_points

    [script] = entry_points(group="console_scripts", name="evodraft")
    assert CORE["scripts"] == {"evodraft": script.value}
    assert callable(script.load())


def test_no_system_is_claimed_that_no_test_ran_on() -> None:
    """docs/versioning.md says where the tests have run; a classifier is added with the first green run."""
    assert [line for line in CORE["classifiers"] if line.startswith("Operating System")] == [
        "Operating System :: POSIX :: Linux"
    ]
