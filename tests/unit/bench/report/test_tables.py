"""What cells, notes and orders say, whoever draws them. Doctests have the formats."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evodraft.bench.report import tables
from evodraft.bench.result import ALL, Check, Interval, Result, Row


def _first(result: Result, condition: str, contestant: str, group: str) -> Row:
    return next(r for r in result.rows if (r.condition, r.contestant, r.group) == (condition, contestant, group))


def test_methods_and_peers_stand_apart_and_all_prompts_come_last(domains: Result) -> None:
    shuffled = replace(domains, rows=domains.rows[::-1])
    for section in tables.sections(shuffled):
        assert {block.contestant.kind for block in section.methods} == {"method"}
        assert {block.contestant.kind for block in section.peers} == {"peer"}
        assert all(block.lines[-1].row.group == ALL for block in (*section.methods, *section.peers))
    assert [section.condition for section in tables.sections(shuffled)] == list(domains.conditions)


def test_a_good_row_has_no_note(domains: Result) -> None:
    assert tables.note(domains, _first(domains, "sampled", "auto", "law")) == ""


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"error": "killed"}, "failed"),
        ({"contestant": "forced:0.8", "is_counted": True}, "synthetic"),
        ({"contestant": "nobody"}, "synthetic"),
        ({"check": None}, "not checked"),
        ({"check": Check("none", True)}, "inexact"),
        ({"check": Check("equality", False)}, "check failed"),
        ({"condition": "greedy", "distinct_4": 0.59}, "repetitive"),
        ({"condition": "greedy", "distinct_4": 0.6}, ""),
        ({"condition": "sampled", "distinct_4": 0.1}, ""),
        ({"is_counted": False}, "not counted"),
    ],
)
def test_a_row_that_must_not_be_quoted_says_why(domains: Result, change: dict[str, object], note: str) -> None:
    row = replace(_first(domains, "sampled", "auto", "law"), **change)  # type: ignore[arg-type]
    assert tables.note(domains, row) == note
    assert note in {"", *tables.NOTES}


def test_plain_decoding_is_not_flattered_by_repetition_unless_the_baseline_is(domains: Result) -> None:
    row = _first(domains, "greedy", "openvino/plain", "code")
    assert row.distinct_4 == 0.41
    assert tables.note(domains, row) == ""
    assert tables.note(replace(domains, baseline="auto"), row) == "repetitive"
    assert tables.note(domains, replace(row, tokens_per_target_pass=None)) == "repetitive"  # it may have drafted
    assert tables.note(replace(domains, baseline="nobody"), row) == ""


def test_rows_of_synthetic_weights_and_of_inexact_contestants_never_count(domains: Result) -> None:
    row = _first(domains, "sampled", "auto", "law")
    random = replace(domains, model=replace(domains.model, synthetic="random weights"))
    assert tables.note(random, row) == "synthetic"
    inexact = replace(domains, contestants=tuple(replace(c, is_exact=False) for c in domains.contestants))
    assert tables.note(inexact, row) == "inexact"


def test_notes_of_a_section_are_those_that_occur(domains: Result) -> None:
    found = {section.condition.name: tables.notes_of(section) for section in tables.sections(domains)}
    assert found["sampled"] == ["synthetic"]
    assert found["coupled"] == ["synthetic", "check failed"]
    assert found["greedy"] == ["synthetic", "repetitive"]
    assert found["greedy-penalty"] == ["failed", "synthetic"]


def test_the_overview_marks_what_does_not_count_and_what_is_of_requests(domains: Result) -> None:
    cells = {contestant.name: found for contestant, found in tables.overview(domains)}
    assert cells["forced:0.8"][0].startswith("(")
    assert cells["llama_cpp/draft"][0].endswith("x*")
    assert cells["auto"][0] == tables.times(_first(domains, "sampled", "auto", ALL).speed_up.value)  # type: ignore[union-attr]
    assert list(cells)[-3:] == ["transformers/assistant-constant", "llama_cpp/draft", "openvino/plain"]


def test_the_overview_says_what_failed_and_what_is_not_there(domains: Result) -> None:
    row = _first(domains, "sampled", "auto", ALL)
    others = [r for r in domains.rows if r.contestant != "auto"]
    assert _cell(replace(domains, rows=(*others, replace(row, error="killed")))) == "failed"
    assert _cell(replace(domains, rows=tuple(others))) == tables.NONE
    assert _cell(replace(domains, rows=(*others, replace(row, speed_up=None, request_speed_up=None)))) == tables.NONE


def _cell(result: Result) -> str:
    return next(cells[0] for contestant, cells in tables.overview(result) if contestant.name == "auto")


def test_remarks_name_failures_failed_checks_and_what_checks_say(domains: Result) -> None:
    assert tables.remarks(domains) == [
        "ngram, coupled, law: check FAILED 3/24, deficit 4.2 of 0.5 nats",
        "openvino/plain, greedy-penalty, math: failed: the process ended with signal 9",
    ]
    row = replace(_first(domains, "sampled", "auto", "law"), check=Check("distribution", True, note="few tokens"))
    assert tables.remarks(replace(domains, rows=(row,))) == ["auto, sampled, law: few tokens"]


def test_a_failed_row_has_no_figures(domains: Result) -> None:
    row = _first(domains, "greedy-penalty", "openvino/plain", "math")
    assert {column.cell(row) for column in tables.COLUMNS} == {tables.NONE}


def test_requests_stand_in_where_decoding_is_not_known(domains: Result) -> None:
    row = replace(_first(domains, "sampled", "llama_cpp/draft", ALL), request_speed_up=Interval(1.3, 1.2, 1.4))
    assert tables.COLUMNS[0].cell(row) == "1.30x* [1.20, 1.40]"
