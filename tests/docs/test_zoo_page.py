"""The table of docs/zoo.md is the registry."""

from __future__ import annotations

from pathlib import Path

from evodraft.zoo import Pair, read_registry

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
HEADER = "| target | draft | method | revision | licence | verified |\n|---|---|---|---|---|---|\n"


def _row(pair: Pair) -> str:
    draft = pair.draft
    revision = f"[{draft.revision[:7]}]({draft.evidence})"
    verified = "yes" if pair.is_verified else "no"
    return f"| {pair.target} | {draft.name} | {draft.method} | {revision} | {draft.license} | {verified} |\n"


def test_the_table_is_the_registry() -> None:
    table = HEADER + "".join(_row(pair) for pair in read_registry())
    assert table in PAGE.read_text(encoding="utf-8"), f"the table of docs/zoo.md should be:\n\n{table}"


def test_a_changed_registry_changes_the_table() -> None:
    rows = [_row(pair) for pair in read_registry()]
    assert len(set(rows)) == len(rows) >= 15
    assert rows[0].replace("| no |", "| yes |") not in rows
