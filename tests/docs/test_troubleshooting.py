"""The messages that docs/troubleshooting.md quotes are those of the source, with errors that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import evodraft.errors

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
GAP = "\0"  # stands for a value in a message


def _messages() -> Iterator[str]:
    """Every string of the source, values of f-strings left out."""
    for path in sorted((PROJECT / "src" / "evodraft").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


MESSAGES = "\n".join(_messages())
QUOTED = [quoted for row in re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE) for quoted in re.findall(r"`(.*?)`", row)]
ERRORS = [quoted for quoted in QUOTED if re.match(r"\w+Error\b", quoted)]


def _missing(quoted: str) -> list[str]:
    """Parts of a quoted message that no message of the source has."""
    parts = [part.strip(" ,(')") for part in re.split(r"\.\.\.|=", quoted.partition(": ")[2])]
    return [part for part in parts if part not in MESSAGES]


def test_there_is_something_to_compare() -> None:
    assert len(ERRORS) >= 30


@pytest.mark.parametrize("quoted", ERRORS)
def test_a_quoted_error_exists(quoted: str) -> None:
    assert hasattr(evodraft.errors, quoted.partition(":")[0])
    assert _missing(quoted) == []


def test_a_message_that_nobody_raises_is_found() -> None:
    assert _missing("WeightsError: the demo models are ... sleeping") == ["sleeping"]
    assert _missing("ConfigError: dtype=... does not fit the given model") == []
