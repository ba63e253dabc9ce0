"""Commands in the documentation could be typed: commands and flags of `evodraft`, `make` targets and scripts exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from evodraft.cli.app import build_app
from evodraft.training.__main__ import build_app as build_recipes

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
GROUP: Any = typer.main.get_command(build_app())
RECIPES: Any = typer.main.get_command(build_recipes())
GROUPS: Final = {"train": RECIPES.commands, "bench": GROUP.commands["bench"].commands}  # commands below a command

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_EVODRAFT = re.compile(r"(?:^|[\s|])evodraft ([a-z]+)\b([^#|\n]*)")
_FLAG = re.compile(r"(?<!\S)--?[a-zA-Z][\w-]*")
_MAKE = re.compile(r"(?:^|\s)make ([a-z]+)")
_SCRIPT = re.compile(r"python3? ((?:[\w.]+/)+\w+\.py)")


def _code(text: str) -> str:
    """Blocks of shell commands and code spans, one below the other."""
    blocks = [block for language, block in _FENCED.findall(text) if language in ("", "sh", "bash")]
    return "\n".join([*blocks, *_SPAN.findall(_FENCED.sub("", text))])


def _wrong_commands(code: str) -> Iterator[str]:
    for name, rest in _EVODRAFT.findall(code):
        command = GROUP.commands.get(name)
        if name in GROUPS and (inner := re.findall(r"^\s*([a-z]+)", rest)):
            name, command = f"{name} {inner[0]}", GROUPS[name].get(inner[0])
        if command is None:
            yield f"evodraft {name}"
            continue
        known = {"-h", "--help"} | {
            flag for option in command.params for flag in (*option.opts, *option.secondary_opts)
        }
        yield from (f"evodraft {name} {flag}" for flag in _FLAG.findall(rest) if flag not in known)


def _wrong_targets(code: str) -> list[str]:
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return [name for name in _MAKE.findall(code) if name not in targets]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_what_a_page_says_to_type_exists(page: Path) -> None:
    code = _code(page.read_text(encoding="utf-8"))
    assert list(_wrong_commands(code)) == []
    assert _wrong_targets(code) == []
    assert [path for path in _SCRIPT.findall(code) if not (PROJECT / path).is_file()] == []


def test_wrong_commands_are_found() -> None:
    code = _code(
        "`evodraft fly`\n```sh\nevodraft generate --heat 1  # --x\n$ evodraft demo --dtype float32 | wc -l\n```\n"
    )
    assert list(_wrong_commands(code)) == ["evodraft generate --heat", "evodraft fly"]
    recipes = "evodraft train draft --haste 1\nevodraft train target --run x\nevodraft train hero"
    assert list(_wrong_commands(recipes)) == ["evodraft train draft --haste", "evodraft train hero"]
    assert _code("```python\nfrom evodraft import LLM\n```\n") == ""
    assert _wrong_targets("make demo\nmake haste") == ["haste"]
    assert _SCRIPT.findall("python benchmarks/gpu/campaign.py --out x") == ["benchmarks/gpu/campaign.py"]
