"""What a reader of the terminal is told."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from evodraft.bench.roofline import Roofline, Speculation, render


def _shown(roofline: Roofline) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(render(roofline))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_figure_has_its_sentence(roofline: Roofline) -> None:
    shown = _shown(replace(roofline, speculation=Speculation.at(3.0, 5, roofline)))
    for expected in (
        "models/big in bfloat16 on A processor, 1 thread(s)",
        "One token reads 95.37 MiB: 66.76 MiB in the layers, 19.07 MiB in the head",
        "The fastest kernel here (prepacked) reads 10.0 GB/s: at that speed a token takes 10 ms",
        "(100 tokens/s)",
        "Plain decoding takes 20 ms per token: 2.00 times the limit.",
        "Scoring 2 tokens costs 1.05, 6 tokens costs 1.26 times one token.",
        "A step of the draft takes 2 ms; its limit is 1 ms.",
        "a token takes 5 ms at best: 2.00 times as fast as plain decoding at its limit, 4.00 times as fast",
        "it is 1.71 times as fast as plain decoding",
        "Left out: stacked (no room).",
    ):
        assert expected in shown


def test_the_table_has_a_line_for_each_measurement(roofline: Roofline) -> None:
    lines = [line.split() for line in _shown(roofline).splitlines()]
    assert ["target:", "reading,", "linear", "20", "5.0", "2.00"] in lines
    assert ["target:", "reading,", "prepacked", "10", "10.0", "1.00"] in lines
    assert ["plain", "decoding,", "one", "token", "20", "5.0", "2.00"] in lines
    assert ["pass", "over", "6", "token(s)", "24", "4.2", "2.40"] in lines
    assert ["draft", "step", "2", "5.0", "2.00"] in lines


def test_what_is_not_there_is_not_spoken_of(roofline: Roofline) -> None:
    bare = replace(roofline, draft=None, draft_step_ms=None, cache_bytes=None)
    shown = _shown(bare)
    assert "draft" not in shown
    assert "cache" not in shown
    assert "Synthetic" not in shown
    assert "at best if drafting costs nothing" in _shown(replace(bare, speculation=Speculation.at(3.0, 5, bare)))


def test_a_cache_that_could_hold_it_all_is_named(roofline: Roofline) -> None:
    assert "The largest cache" not in _shown(roofline)
    assert "(1.00 GiB) can hold all of it" in _shown(replace(roofline, cache_bytes=2**30))


def test_figures_that_contradict_each_other_are_not_to_be_used(roofline: Roofline) -> None:
    assert "faster than its limit" not in _shown(roofline)
    assert "faster than its limit" in _shown(replace(roofline, plain_ms=5.0))


def test_synthetic_weights_come_first_and_names_cannot_steer_the_terminal(roofline: Roofline) -> None:
    model = replace(roofline.model, name="a\x1b[2Jb", synthetic="random weights")
    shown = _shown(replace(roofline, model=model))
    assert "Synthetic: random weights." in shown
    assert "\x1b" not in shown
