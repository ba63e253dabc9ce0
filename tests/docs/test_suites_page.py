"""docs/benchmark_suites.md lists what the code has: suites, keys with defaults, kinds of sources with their options."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Final

from evodraft.bench.sources import KINDS
from evodraft.bench.suites import Condition, Suite, load_suite, suite_names

PAGE = (Path(__file__).parents[2] / "docs" / "benchmark_suites.md").read_text(encoding="utf-8")
SPELT: Final = {"()": "`[]`", "False": "`false`", "'rejection'": '`"rejection"`', "None": "as they are"}


def rows(first_line: str) -> list[list[str]]:
    """The cells of the table that begins with `first_line`."""
    table = PAGE.partition(f"{first_line}\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line[1:-1].replace("| |", "|  |").split(" | ")] for line in table]


def defaults(kind: type, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Key -> default as the page spells it."""
    shown = {}
    for field in fields(kind):
        if field.name not in without:
            text = "" if field.default is MISSING else repr(field.default)
            shown[f"`{field.name}`"] = SPELT.get(text, f"`{text}`" if text else "")
    return shown


def test_suites() -> None:
    expected = []
    for name in suite_names():
        full, quick = load_suite(name), load_suite(name, is_quick=True)
        counts = [sum(map(suite.num_prompts, suite.groups)) for suite in (full, quick)]
        methods = ", ".join(f"`{method}`" for method in full.methods)
        expected.append([f"`{name}`", full.about, methods, f"{counts[0]}, {counts[1]}"])
    assert rows("| suite | asks | methods | prompts per repeat, quick |") == expected


def test_keys_and_defaults() -> None:
    keys = {row[0]: row[1] for row in rows("| key | default | |")}
    wanted = defaults(Suite, without=("name", "sha256", "is_quick"))
    assert keys == wanted
    assert {row[0]: row[1] for row in rows("| key of a condition | default | |")} == defaults(Condition)


def test_kinds_and_options() -> None:
    listed = {row[0].strip("`"): row[-1] for row in rows("| kind | prompts | options |")}
    assert list(listed) == list(KINDS)
    for kind, cell in listed.items():
        options = [name for name in re.findall(r"`(\w+)`", cell) if name != "domain"]
        assert set(options) == {field.name for field in fields(KINDS[kind].config)}, kind


def test_the_example_is_a_suite(tmp_path: Path) -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "office.toml"
    path.write_text(example, encoding="utf-8")
    assert load_suite(path).prompts_per_group == 8
    assert load_suite(path, is_quick=True).prompts_per_group == 2
