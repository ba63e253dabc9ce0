"""Pages show what committed results say, and a result that must not be shown is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench_tables
from evodraft.bench import schema
from evodraft.bench.result import (
    ALL,
    SCHEMA,
    Check,
    ConditionRecord,
    ContestantRecord,
    Interval,
    MachineRecord,
    ModelRecord,
    Noise,
    Result,
    Row,
    SuiteRecord,
)

PAGE = "# evodraft\n\nbefore\n\n<!-- bench:domains -->\n\nold figures\n\n<!-- /bench -->\n\nafter\n"
BUNDLE = b'{"files": {}}\n'


def result(**changes: Any) -> Result:
    """Measured with the bundle of the project that the fixture makes; no figure is real."""
    check, speed_up = Check("distribution", True, p_value=0.4), Interval(1.4, 1.3, 1.5)
    figures: dict[str, Any] = {"speed_up": speed_up, "distinct_4": 0.9, "check": check, "is_counted": True}
    names = ("auto", "ngram")
    return replace(
        Result(
            SCHEMA,
            "2026-11-21",
            None,
            (),
            1.0,
            SuiteRecord("domains", "a", "b", ("own",), False, 64, ()),
            ModelRecord("demo", hashlib.sha256(BUNDLE).hexdigest(), 12_000_000, "bfloat16", None),
            MachineRecord("a processor", (), 2, 2, None, 15.5),
            {"torch": "2.13.0"},
            7,
            "plain",
            (ConditionRecord("T=0.7", 0.7, 1.0, 1, "rejection", None, (7,)),),
            tuple(ContestantRecord(name, "method", {}, {}, True, None, "", None) for name in names),
            tuple(Row(group, "T=0.7", name, 8, 3, **figures) for name in names for group in ("law", ALL)),
            (),
            Noise("T=0.7", Interval(1.0, 0.99, 1.01), True),
        ),
        **changes,
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one page, one result and a bundle."""
    monkeypatch.setattr(bench_tables, "PROJECT", tmp_path)
    (tmp_path / bench_tables.MANIFEST).parent.mkdir(parents=True)
    (tmp_path / bench_tables.MANIFEST).write_bytes(BUNDLE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    (tmp_path / "docs" / "page.md").write_text("`<!-- bench:NAME -->` in a sentence is no marker\n", encoding="utf-8")
    commit(tmp_path, result())
    return tmp_path


def commit(project: Path, found: Result) -> None:
    schema.write(project / bench_tables.RESULTS / "domains.json", found)


def readme(project: Path) -> str:
    return (project / "README.md").read_text(encoding="utf-8")


def test_tables_are_filled_between_their_markers_and_then_pass(project: Path) -> None:
    assert bench_tables.main([]) == 0
    text = readme(project)
    assert text.startswith("# evodraft\n\nbefore\n\n<!-- bench:domains -->\n\nauto over plain in the same run")
    assert "| law | 1.40x [1.30, 1.50] |" in text
    assert text.endswith("|\n\n<!-- /bench -->\n\nafter\n")
    assert "old figures" not in text
    assert bench_tables.main(["--check"]) == 0
    assert bench_tables.main([]) == 0
    assert readme(project) == text


def test_a_check_changes_nothing_and_names_the_page(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_tables.main(["--check"]) == 1
    assert readme(project) == PAGE
    expected = "README.md is not what benchmarks/results says; run `python tools/bench_tables.py`\n"
    assert capsys.readouterr().err == expected


def test_an_edited_figure_is_found(project: Path) -> None:
    assert bench_tables.main([]) == 0
    (project / "README.md").write_text(readme(project).replace("1.40x", "2.40x"), encoding="utf-8")
    assert bench_tables.main(["--check"]) == 1


def test_a_contestant_can_be_named(project: Path) -> None:
    (project / "README.md").write_text(PAGE.replace("bench:domains", "bench:domains ngram"), encoding="utf-8")
    assert bench_tables.main([]) == 0
    assert "\nngram over plain" in readme(project)
    assert "<!-- bench:domains ngram -->\n" in readme(project)


def _noisy(found: Result) -> Result:
    return replace(found, noise=Noise("T=0.7", Interval(1.0, 0.9, 1.1), False))


@pytest.mark.parametrize("arguments", [[], ["--check"]])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda r: replace(r, model=replace(r.model, sha256="0" * 64)),
            f"measured with weights {'0' * 64}, the bundle in",
        ),
        (lambda r: replace(r, model=replace(r.model, sha256=None)), "measured with weights without a manifest"),
        (lambda r: replace(r, model=replace(r.model, synthetic="random weights")), "the result is synthetic"),
        (_noisy, "domains.json was measured on a machine that was too noisy; measure again"),
        (lambda r: replace(r, noise=None), "domains.json was measured on a machine that was too noisy"),
    ],
)
def test_a_result_that_must_not_be_shown_is_refused(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Result], Result],
    complaint: str,
    arguments: list[str],
) -> None:
    commit(project, change(result()))
    assert bench_tables.main(arguments) == 1
    assert complaint in capsys.readouterr().err
    assert readme(project) == PAGE


def test_a_changed_bundle_refuses_what_was_measured_before(project: Path) -> None:
    assert bench_tables.main([]) == 0
    (project / bench_tables.MANIFEST).write_bytes(b"{}\n")
    assert bench_tables.main(["--check"]) == 1


def test_rows_that_do_not_count_show_no_figure(project: Path) -> None:
    commit(project, result(rows=tuple(replace(row, is_counted=row.group == ALL) for row in result().rows)))
    assert bench_tables.main([]) == 0
    assert "| law | not counted | – | – | – | – |" in readme(project)


def test_nothing_is_written_if_one_page_is_wrong(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "docs" / "z.md").write_text("<!-- bench:gone -->\n<!-- /bench -->\n", encoding="utf-8")
    assert bench_tables.main([]) == 1
    assert "docs/z.md: cannot read" in capsys.readouterr().err
    assert readme(project) == PAGE


@pytest.mark.parametrize(
    "page",
    ["<!-- bench:domains -->\n\ntext\n", "<!-- bench:domains -->\n<!-- bench:domains -->\n<!-- /bench -->\n"],
)
def test_a_table_without_an_end_is_refused(project: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "README.md").write_text(page, encoding="utf-8")
    assert bench_tables.main([]) == 1
    assert "README.md: <!-- bench:domains --> has no line <!-- /bench --> after it" in capsys.readouterr().err


def test_two_tables_on_one_page_are_both_filled(project: Path) -> None:
    (project / "README.md").write_text(PAGE + PAGE, encoding="utf-8")
    assert bench_tables.main([]) == 0
    assert readme(project).count("| law |") == 2
    assert readme(project).count("before") == 2


def test_other_arguments_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_tables.main(["--chekc"]) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_the_pages_of_this_project_are_filled() -> None:
    assert bench_tables.main(["--check"]) == 0
