"""docs/cli.md names every command and every flag, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from evodraft.cli.app import build_app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
GROUP: Any = typer.main.get_command(build_app())
COMMANDS = {
    " ".join(filter(None, (name, inner))): leaf
    for name, command in GROUP.commands.items()
    for inner, leaf in getattr(command, "commands", {"": command}).items()
}
FLAGS = {
    name: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts) if flag.startswith("-")}
    for name, command in COMMANDS.items()
}
SHARED = PAGE.partition("## Shared flags")[2].partition("\n## ")[0]


def _documented(name: str) -> set[str]:
    """Flags in the command's own section, and those of the shared table that name it."""
    section = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `-")]
    for line in SHARED.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if line.startswith("| `-") and name in cells[3].split(", "):
            rows.append(cells)
    return {flag for cells in rows for flag in re.findall(r"`(--?[\w-]+)`", cells[1])}


@pytest.mark.parametrize("name", FLAGS)
def test_every_command_has_a_line_and_a_section(name: str) -> None:
    assert f"| [`{name}`](#{name.replace(' ', '-')}) |" in PAGE
    assert f"\n## {name}\n" in PAGE


@pytest.mark.parametrize("name", FLAGS)
def test_a_commands_flags_are_those_that_are_documented(name: str) -> None:
    assert _documented(name) == FLAGS[name] - {"-h", "--help"}
