"""The oldest dependencies are those of pyproject.toml, and tools stay as they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import oldest

PROJECT = Path(__file__).parents[2]


def test_bounds_become_pins_and_tools_keep_theirs() -> None:
    constraints = "# a comment\nnumpy==2.4.6\npytest==9.2.0\n"
    assert oldest.oldest(["numpy>=1.26", "torch>=2.8,<3"], constraints) == [
        "numpy==1.26",
        "pytest==9.2.0",
        "torch==2.8",
    ]


@pytest.mark.parametrize("requirement", ["numpy", "numpy<3", "numpy==2.4.6"])
def test_a_dependency_without_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="names no oldest version; write 'name>=version'"):
        oldest.oldest([requirement], "")


def test_every_dependency_is_pinned_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Once as the version that the project is developed on, once as the oldest; extras are pinned too."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=]", requirement)[0].lower() for requirement in requirements}
    constraints = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    assert oldest.main() == 0
    for text in (constraints, capsys.readouterr().out):
        assert {line.split("==")[0].lower() for line in text.splitlines() if "==" in line} == names
