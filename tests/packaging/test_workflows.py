"""Workflows, forms and hooks: what they call exists, and they may do no more than they need.

Only their text is checked; whether they work shows when they run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
FILES = sorted([*(PROJECT / ".github").rglob("*.yml"), PROJECT / ".pre-commit-config.yaml"])
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


WORKFLOWS = {path.stem: read(path) for path in FILES if path.parent.name == "workflows"}


class Job(NamedTuple):
    """One job of one workflow."""

    workflow: str
    name: str
    content: dict[str, Any]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return list(self.content.get("steps", []))

    @property
    def commands(self) -> list[str]:
        return [step["run"] for step in self.steps if "run" in step]


JOBS = [Job(name, job, content) for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()]
ALL_COMMANDS = [command for job in JOBS for command in job.commands]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_yaml(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_both_workflows_are_there() -> None:
    assert set(WORKFLOWS) == {"ci", "release"}
    assert "workflow_call" in WORKFLOWS["ci"][True]  # YAML 1.1 reads `on` as true
    assert JOBS
    assert len(ALL_COMMANDS) > 8


def test_every_system_and_python_is_tested() -> None:
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    assert matrix["python"] == re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    [excluded] = matrix["exclude"]
    [set_up] = [
        step["with"] for step in WORKFLOWS["ci"]["jobs"]["check"]["steps"] if "setup-python" in str(step.get("uses"))
    ]
    assert (excluded["os"], excluded["python"]) == ("ubuntu-latest", set_up["python-version"])


def test_scripts_and_targets_that_are_called_exist() -> None:
    targets = {target for command in ALL_COMMANDS for target in re.findall(r"\bmake (\w+)", command)}
    assert targets >= {"check", "test", "build", "oldest"}
    assert [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)] == []
    hooks = read(PROJECT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    texts = [*ALL_COMMANDS, MAKEFILE, *(hook["entry"] for hook in hooks)]
    scripts = {script for text in texts for script in re.findall(r"\btools/\w+\.py", text)}
    assert len(scripts) >= 5
    assert [script for script in sorted(scripts) if not (PROJECT / script).is_file()] == []


def test_where_there_is_no_make_it_is_not_called() -> None:
    [job] = [job for job in JOBS if job.name == "test"]
    assert not [command for command in job.commands if "make" in command or ".venv" in command]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.workflow}-{job.name}")
def test_a_job_ends_and_may_do_only_what_it_must(job: Job) -> None:
    wider = {"pypi": {"id-token": "write"}, "github": {"contents": "write"}}
    assert WORKFLOWS[job.workflow]["permissions"] == {"contents": "read"}
    assert job.content.get("permissions") == wider.get(job.name)
    if "uses" in job.content:
        assert (PROJECT / job.content["uses"]).is_file()
    else:
        assert 0 < job.content["timeout-minutes"] <= 60


def test_nothing_from_outside_is_pasted_into_a_command() -> None:
    assert [command for command in ALL_COMMANDS if "${{" in command] == []


def actions(jobs: list[Job]) -> Iterator[str]:
    return (step["uses"] for job in jobs for step in job.steps if "uses" in step)


def test_actions_are_pinned() -> None:
    """GitHub's own to a major version, others to a commit."""
    pinned = re.compile(r"actions/[\w-]+@v\d+|[\w-]+/[\w-]+@[0-9a-f]{40}")
    found = sorted(set(actions(JOBS)))
    assert len(found) >= 5
    assert [action for action in found if not pinned.fullmatch(action)] == []
    assert not pinned.fullmatch("someone/action@v1")
    assert not pinned.fullmatch("actions/checkout@main")


def test_a_release_is_published_only_after_everything_passed() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["ci"] == {"uses": "./.github/workflows/ci.yml"}
    assert (jobs["build"]["needs"], jobs["pypi"]["needs"], jobs["github"]["needs"]) == (
        "ci",
        "build",
        ["build", "pypi"],
    )
    groups = {name: flow["concurrency"]["group"].split("-")[0] for name, flow in WORKFLOWS.items()}
    assert groups == {"ci": "ci", "release": "release"}  # one group for both would let a release wait for itself


def test_what_published_numbers_depend_on_is_not_updated_by_a_robot() -> None:
    [pip] = [u for u in read(PROJECT / ".github" / "dependabot.yml")["updates"] if u["package-ecosystem"] == "pip"]
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    [tools] = re.findall(r"^dev = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert [entry["dependency-name"] for entry in pip["allow"]] == re.findall(r'"([\w-]+)', tools)


@pytest.mark.parametrize(
    "path", sorted((PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_asks_for_something(path: Path) -> None:
    form = read(path)
    if path.stem == "config":
        assert set(form) == {"blank_issues_enabled"}
        return
    assert form["name"]
    assert form["description"]
    identifiers = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert identifiers
    assert len(set(identifiers)) == len(identifiers)


def test_hooks_use_the_projects_own_tools() -> None:
    for repository in read(PROJECT / ".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["entry"].startswith(".venv/bin/python ")
