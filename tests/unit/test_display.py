"""What the demo shows, read as plain text."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from evodraft.demo import Comparison, Difference, Prompt, Row
from evodraft.display import answer_panel, figures, identity
from evodraft.types import Completion, GenerationStats


def _shown(renderable: RenderableType) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def _comparison(difference: Difference | None) -> Comparison:
    stats = GenerationStats(1, 8, 4, 4, 10, 4, 8, decode_s=2.0)
    completion = Completion("r", "an answer", (1,) * 8, "length", True, stats, 0)
    return Comparison(Prompt("law", "a question"), 0.7, completion, completion, difference)


def test_panel_shows_question_answer_and_speed() -> None:
    shown = _shown(answer_panel(_comparison(None)))
    assert "a question" in shown
    assert "an answer" in shown
    assert "4 -> 4 tokens/s, 2.00 tokens per round" in shown


def test_table_has_a_line_per_row() -> None:
    shown = _shown(figures([Row("law", 0.7, 10.0, 15.0, 1.5, 2.25, 0.4, 2.0, 0.9, 3, 4)]))
    assert all(text in shown for text in ("0.7", "law", "10.0", "15.0", "1.50x", "2.25", "0.40", "0.90", "3/4"))


def test_identity_names_the_first_difference_and_its_margin() -> None:
    assert "all 1 speculative outputs equal" in _shown(identity([_comparison(None)]))
    shown = _shown(identity([_comparison(Difference(5, 0.0123))]))
    assert "1 of 1 outputs differ" in shown
    assert "law, temperature 0.7: after 5 tokens, top-2 margin 0.012 nats" in shown
