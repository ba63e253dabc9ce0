"""A result on terminals of several widths."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from evodraft.bench.report import tables, terminal
from evodraft.bench.result import Result


def shown(result: Result, width: int, *, is_coloured: bool = False) -> str:
    file = io.StringIO()
    colours = "standard" if is_coloured else None
    Console(file=file, width=width, force_terminal=is_coloured, color_system=colours).print(terminal(result))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_row_stands_on_one_line(domains: Result, width: int) -> None:
    lines = shown(domains, width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(r for r in domains.rows if (r.condition, r.contestant, r.group) == ("sampled", "auto", "medicine"))
    figures = [column.cell(row) for column in tables.COLUMNS if width == 160 or not column.is_wide]
    assert any(line.split() == ["medicine", *" ".join(figures).split()] for line in lines)


def test_a_narrow_terminal_says_what_is_left_out(domains: Result) -> None:
    assert "Left out for want of room: whole request, replayed, req. tok/s, deficit" in shown(domains, 80)
    assert "Left out" not in shown(domains, 160)


def test_notes_settings_failures_and_noise_are_there(domains: Result) -> None:
    text = shown(domains, 160)
    assert "synthetic: random weights or forced acceptance" in text
    assert "third-party build" in text
    assert "openvino/plain, greedy-penalty, math: failed: the process ended with signal 9" in text
    assert "control: plain against itself (sampled): 1.00x [0.98, 1.01]" in text
    assert "AMD EPYC" in text


def test_the_overview_and_the_noise_stay_in_sight(shift: Result) -> None:
    end = shown(shift, 160).partition("overview")[2]
    assert "fixed:4" in end
    assert "machine too noisy" in end


def test_rows_that_do_not_count_are_dimmed(domains: Result) -> None:
    lines = [line for line in shown(domains, 160, is_coloured=True).splitlines() if "repetitive" in line]
    assert lines
    assert all("\x1b[2m" in line for line in lines if "x [" in line)


def test_foreign_words_cannot_steer_the_terminal(domains: Result, renamed: Callable[[Result, str], Result]) -> None:
    text = shown(renamed(domains, "[red]x\x1b[2J"), 160)
    assert "\x1b" not in text
    assert "[red]x\ufffd[2J" in text


def test_a_result_without_anything_is_shown(domains: Result) -> None:
    empty = replace(domains, rows=(), items=(), contestants=(), conditions=())
    assert "overview" in shown(empty, 80)
