"""A result as Markdown: everything, and what a README shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from evodraft.bench.report import markdown, tables
from evodraft.bench.result import ALL, Result
from evodraft.errors import BenchError


def cells(text: str) -> list[list[str]]:
    """Of all tables."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]


def test_every_row_is_there_with_its_figures(domains: Result) -> None:
    found = cells(markdown(domains))
    for row in domains.rows:
        figures = [column.cell(row) for column in tables.COLUMNS]
        assert [row.contestant, row.group, *figures, tables.note(domains, row)] in found


def test_all_lines_of_a_table_have_as_many_cells(domains: Result, renamed: Callable[[Result, str], Result]) -> None:
    text = markdown(renamed(domains, "a|b\n| c"))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(line) for line in cells(block)}) == 1


def test_settings_remarks_noise_and_meanings_are_there(domains: Result) -> None:
    text = markdown(domains)
    assert "**Control**: plain against itself (sampled): 1.00x" in text
    assert "**Synthetic**: forced:0.8: accepts 4 of 5" in text
    assert "- openvino/plain, greedy-penalty, math: failed: the process ended with signal 9" in text
    assert "- MAL: mean acceptance length" in text
    assert ["machine", "AMD EPYC, avx2 avx512_bf16"] in cells(text)
    assert text.endswith("|\n")


def test_a_noisy_machine_is_a_warning(shift: Result) -> None:
    assert "**Warning**: machine too noisy" in markdown(shift)


@pytest.mark.parametrize("words", ["<script>", "![x](http://a)", "*b*", "`c`", "a_b_", "&lt;"])
def test_foreign_words_are_no_markup(domains: Result, renamed: Callable[[Result, str], Result], words: str) -> None:
    plain = replace(domains, contestants=domains.contestants[:2], rows=domains.rows[:12])
    lines = markdown(renamed(plain, words)).splitlines()
    assert all(words not in re.sub(r"\\.", "", line) for line in lines)
    assert any(words in re.sub(r"\\(.)", r"\1", line) for line in lines)


# --------------------------------------------------------------------------------
# For a README
# --------------------------------------------------------------------------------


def test_a_readme_shows_the_first_method_by_group(domains: Result) -> None:
    text = markdown(domains, compact=True)
    first, *_ = cells(text)
    assert first == [
        *("prompts", "speed-up", "whole request", "MAL", "distinct-4", "check"),
        *("coupled, identical", "greedy, identical", "greedy-penalty, identical"),
    ]
    row = next(r for r in domains.rows if (r.condition, r.contestant, r.group) == ("sampled", "auto", "law"))
    [line] = [line for line in cells(text) if line[0] == "law"]
    assert line[1] == tables.spread(row.speed_up)
    assert line[6].endswith("x, 22/24")
    assert [line[0] for line in cells(text)[2:8]] == ["general", "code", "law", "medicine", "math", ALL]


def test_a_readme_says_who_measured_what(domains: Result) -> None:
    text = " ".join(markdown(domains, compact=True).split("\n\n")[0].split())
    assert text.startswith("auto over plain in the same run, suite domains, sampled: 40 prompts, 3 repeats")
    for word in (
        "AMD EPYC",
        "threads: 2",
        "torch 2.13.0+cpu",
        "2026-11-21",
        "bfloat16",
        "Control: plain against itself",
    ):
        assert word in text
    assert max(map(len, markdown(domains, compact=True).split("\n\n")[0].splitlines())) <= 120


def test_figures_that_do_not_count_are_not_shown(domains: Result) -> None:
    text = markdown(domains, compact=True)
    [code] = [line for line in cells(text) if line[0] == "code"]
    assert code[7] == "repetitive"
    uncounted = replace(domains, rows=tuple(replace(row, is_counted=False) for row in domains.rows))
    assert re.search(r"\d\.\d\dx", "".join(map("".join, cells(markdown(uncounted, compact=True))))) is None


def test_what_is_synthetic_is_left_out_of_a_readme(domains: Result) -> None:
    assert "forced" not in markdown(domains, compact=True)
    with pytest.raises(BenchError, match="the result is synthetic .random weights.; measure real weights"):
        markdown(replace(domains, model=replace(domains.model, synthetic="random weights")), compact=True)


def test_everybody_real_has_a_line_over_all_prompts(domains: Result) -> None:
    names = [line[0] for line in cells(markdown(domains, compact=True))[9:]]
    assert names == [
        "---",
        "auto",
        "ngram",
        "fixed:4",
        "transformers/assistant-constant",
        "llama_cpp/draft",
        "openvino/plain",
    ]


def test_another_contestant_can_be_chosen(domains: Result) -> None:
    assert markdown(domains, compact=True, contestant="llama_cpp/draft").startswith("llama_cpp/draft over plain")
    with pytest.raises(BenchError, match="nobody of the name magic can be shown; there are: auto, ngram, fixed:4"):
        markdown(domains, compact=True, contestant="magic")
    with pytest.raises(BenchError, match="nobody of the name forced:0.8 can be shown"):
        markdown(domains, compact=True, contestant="forced:0.8")


def test_one_contestant_alone_has_one_table(domains: Result) -> None:
    alone = replace(domains, contestants=domains.contestants[:3])
    assert len([line for line in cells(markdown(alone, compact=True)) if line[0] == "---"]) == 1


def test_a_result_without_conditions_cannot_be_shown_in_a_readme(domains: Result) -> None:
    with pytest.raises(BenchError, match="no conditions"):
        markdown(replace(domains, conditions=()), compact=True)


def test_a_row_that_is_missing_has_no_figures(domains: Result) -> None:
    rows = tuple(row for row in domains.rows if (row.condition, row.group) != ("greedy", "law"))
    [line] = [line for line in cells(markdown(replace(domains, rows=rows), compact=True)) if line[0] == "law"]
    assert line[7] == tables.NONE
