"""Tables of README and docs list what the code has: families, parts, sampling fields."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest

from evodraft.controllers import CONTROLLERS
from evodraft.drafters import DRAFTERS
from evodraft.drafters.vocabulary import VOCABULARIES
from evodraft.inspection.speed import best_case
from evodraft.params import SamplingParams
from evodraft.runtime.choose import NUMERICS, RUNTIMES
from evodraft.runtime.support import ModelFacts
from evodraft.spellings import VLLM_KEYS
from evodraft.testing.tiny import TINY_FAMILIES
from evodraft.verifiers import VERIFIERS

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MODELS_PAGE = (PROJECT / "docs" / "supported_models.md").read_text(encoding="utf-8")
CONFIG_PAGE, CLI_PAGE, RUNTIME_PAGE = (
    (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("config", "cli", "runtime")
)
VLLM_PAGE = (PROJECT / "docs" / "coming_from_vllm.md").read_text(encoding="utf-8")
GREEDY_TEST = (PROJECT / "tests" / "exactness" / "test_llm_greedy.py").read_text(encoding="utf-8")
LAYERS: Final = {
    "full_attention": "everything",
    "sliding_attention": "a sliding window",
    "chunked_attention": "a chunk",
}
PARTS: Final = {
    "drafter": {*DRAFTERS, "None"},
    "controller": set(CONTROLLERS),
    "verifier": set(VERIFIERS),
    "runtime": {"auto", *RUNTIMES},
    "numerics": set(NUMERICS),
    "vocabulary": {*VOCABULARIES, "None"},
}


def _cells(page: str, first: str) -> list[str]:
    """The line of a table that begins with `first`."""
    [line] = re.findall(rf"^\| {re.escape(first)} \|.*$", page, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def _names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def _families(constant: str) -> set[str]:
    """The families that tests/exactness/test_llm_greedy.py runs, by the name of its constant."""
    [value] = re.findall(rf"^{constant}: Final = (\(.*\))$", GREEDY_TEST, re.MULTILINE)
    return set(ast.literal_eval(value))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_family_has_its_line(family: str) -> None:
    model = TINY_FAMILIES[family]()
    layers = ", ".join(LAYERS[kind.name] for kind in ModelFacts.of(model).kinds)
    engine = "every drafter, controller and verifier" if family in _families("FAMILIES") else "every drafter"
    tried = _families("FAMILIES") | _families("MORE_FAMILIES")
    expected = [f"`{family}`", type(model).__name__, layers, engine if family in tried else "not tried"]
    assert _cells(MODELS_PAGE, f"`{family}`") == expected


def test_families_are_those_of_the_code() -> None:
    assert re.findall(r"^\| `(\w+)` \|", MODELS_PAGE, re.MULTILINE) == list(TINY_FAMILIES)
    assert _names(_cells(README, "tiny random weights")[1]) == list(TINY_FAMILIES)
    assert f"the {len(TINY_FAMILIES)} families below" in MODELS_PAGE


@pytest.mark.parametrize("part", PARTS)
def test_readme_names_every_part(part: str) -> None:
    there, planned = _cells(README, part)[1:]
    assert set(_names(there)) == PARTS[part]
    assert _names(planned) == []


@pytest.mark.parametrize("part", ["drafter", "controller", "verifier", "vocabulary"])
def test_the_options_page_names_every_part(part: str) -> None:
    """The first line of a part bears its name, the others begin with an empty cell."""
    section = CONFIG_PAGE.partition("| part | name | options |")[2].partition(f"\n| {part} |")[2]
    first, *rest = section.splitlines()
    rows = [first, *(line.removeprefix("| |") for line in takewhile(lambda line: line.startswith("| |"), rest))]
    assert {name for row in rows for name in _names(row.split("|")[0])} == PARTS[part]


@pytest.mark.parametrize("option", ["runtime", "numerics"])
def test_option_tables_name_every_word(option: str) -> None:
    words = PARTS[option]
    meaning = _cells(CONFIG_PAGE, f"`{option}`")[2]
    assert set(re.findall(r'`"(\w+)"`', meaning)) == words
    assert set(_names(_cells(CLI_PAGE, f"`--{option}`")[3])) == words


def test_runtimes_stand_in_their_order() -> None:
    assert re.findall(r"^\| `(\w+)` \|", RUNTIME_PAGE, re.MULTILINE) == list(RUNTIMES)
    listed = re.findall(r'`"(\w+)"`', _cells(CONFIG_PAGE, "`runtime`")[2])
    assert listed == ["auto", *RUNTIMES]


def test_readme_says_what_the_formula_says() -> None:
    assert f"4 of 5 tokens accepted, theory gives {best_case(0.8, 0.1).speed_up:.1f}x at best" in README
    assert f"the same theory gives {best_case(0.8, 0.5).speed_up:.1f}x at best" in README


def test_the_vllm_page_names_every_field_and_key() -> None:
    section = VLLM_PAGE.partition("## SamplingParams")[2].partition("Everything else is refused")[0]
    accepted = {name for row in re.findall(r"^\| (`.*)$", section, re.MULTILINE) for name in _names(row)}
    assert accepted - {"None"} == {field.name for field in fields(SamplingParams)} | {"max_tokens", "min_tokens"}
    section = VLLM_PAGE.partition("`speculative_config` takes five keys:")[2].partition("Other keys")[0]
    keys = [name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in _names(row)]
    assert sorted(keys) == sorted(VLLM_KEYS)
    assert len(VLLM_KEYS) == 5
