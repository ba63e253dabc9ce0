"""What the command line shows, read as plain text."""

from __future__ import annotations

import io
import itertools

from rich.console import Console, RenderableType

from demo_picture import picture
from evodraft.demo import Comparison, Difference, Prompt, Recording, Row, Span
from evodraft.display import figures, identity, legend, printable, replay, streams, summary
from evodraft.types import Completion, GenerationStats

GREEN, RESET = "\x1b[32m", "\x1b[0m"


def _shown(renderable: RenderableType, **options: object) -> str:
    console = Console(width=160, file=io.StringIO(), **options)
    console.print(renderable)
    return console.file.getvalue()


def _recording(*words: str, round_size: int, round_s: float) -> Recording:
    """`round_size` words a round, the last of them the target's own."""
    num_rounds = len(words) // round_size
    spans = tuple(
        Span(round_s * (index // round_size + 1), word, is_accepted=index % round_size < round_size - 1)
        for index, word in enumerate(words)
    )
    speculative = num_rounds if round_size > 1 else 0
    accepted = sum(span.is_accepted for span in spans)
    stats = GenerationStats(
        1,
        len(words),
        num_rounds,
        speculative,
        10,
        accepted,
        len(words) * bool(speculative),
        decode_s=round_s * num_rounds,
    )
    return Recording(Completion("r", "".join(words), (1,) * len(words), "length", True, stats, 5), spans)


def _comparison(*words: str, difference: Difference | None = None, question: str = "a question") -> Comparison:
    plain, fast = _recording(*words, round_size=1, round_s=0.5), _recording(*words, round_size=2, round_s=0.625)
    return Comparison(Prompt("law", question), 0.7, plain, fast, difference)


def test_both_streams_stand_side_by_side_with_their_speeds() -> None:
    shown = _shown(streams(_comparison("an ", "answer ", "of ", "mine")))
    assert "law: a question" in shown
    assert shown.count("an answer of mine") == 2
    assert "2 tokens/s" in shown  # 4 in 4 x 0.5 s
    assert "3 tokens/s, 2.00 tokens per round" in shown  # 4 in 2 x 0.625 s
    assert "4 tokens in 1.25 s" in shown
    assert "\x1b" not in shown


def test_accepted_tokens_are_coloured_and_no_others() -> None:
    shown = _shown(streams(_comparison("an ", "answer")), force_terminal=True, color_system="standard")
    [line] = [line for line in shown.splitlines() if "answer" in line]
    plain, fast = line.split("│")[1:3]
    assert GREEN not in plain
    assert f"{GREEN}an {RESET}answer" in fast
    assert GREEN in _shown(legend(), force_terminal=True, color_system="standard")


def test_streams_show_what_had_arrived_by_then() -> None:
    comparison = _comparison("one ", "two ", "three ", "four")
    assert "one" not in _shown(streams(comparison, 0.4))
    early = _shown(streams(comparison, 0.7))
    assert early.count("one") == 2
    assert early.count("two") == 1  # only in the speculative stream
    assert "1 tokens in 0.70 s" in early
    assert "2 tokens in 0.70 s" in early
    assert _shown(streams(comparison, 99.0)) == _shown(streams(comparison))


def test_the_fast_stream_stops_its_clock_when_it_is_done() -> None:
    shown = _shown(streams(_comparison("one ", "two ", "three ", "four"), 1.6))
    assert "3 tokens in 1.60 s" in shown
    assert "4 tokens in 1.25 s" in shown


def test_nothing_said_is_said() -> None:
    assert "(no text)" in _shown(streams(_comparison("", "")))


def test_text_of_models_and_users_is_literal() -> None:
    shown = _shown(streams(_comparison("[red]\x1b[2J", "[/red]", question="[bold]\x07?")), force_terminal=True)
    assert "[red]\ufffd[2J" in shown.replace(GREEN, "").replace(RESET, "")
    assert "[bold]\ufffd?" in shown
    assert "\x1b[2J" not in shown
    assert printable("a\r\x1b\x9b\x7fb\n\tc") == "a\ufffd\ufffd\ufffd\ufffdb\n\tc"


class _Film:
    """Takes frames where a rich.live.Live would."""

    def __init__(self) -> None:
        self.frames: list[str] = []

    def update(self, renderable: RenderableType, *, refresh: bool) -> None:
        assert refresh
        self.frames.append(_shown(renderable))


def test_replay_runs_at_the_recorded_pace() -> None:
    film, seconds, slept = _Film(), itertools.count(0, 0.25), []
    replay(_comparison("one ", "two ", "three ", "four"), film, clock=lambda: next(seconds), sleep=slept.append)
    assert len(film.frames) == len(slept) == 7  # 0.25 .. 1.75 of 2.0 seconds
    assert all(0 < pause <= 0.1 for pause in slept)
    assert [frame.count("one") for frame in film.frames] == [0, 1, 2, 2, 2, 2, 2]  # plain at 0.5, fast at 0.625
    assert [frame.count("four") for frame in film.frames] == [0, 0, 0, 0, 1, 1, 1]  # fast at 1.25, plain at 2.0


def test_summary_is_one_line_of_figures() -> None:
    comparison = _comparison("an ", "answer")
    assert summary(comparison.plain.completion) == "2 tokens in 1.00 s, 2 tokens/s, finish: length, seed: 5"
    assert summary(comparison.speculative.completion) == (
        "2 tokens in 0.62 s, 3 tokens/s, 2.00 tokens per round, acceptance rate 0.10, finish: length, seed: 5"
    )


def test_table_has_a_line_per_row() -> None:
    shown = _shown(figures([Row("law", 0.7, 10.0, 15.0, 1.5, 1.6, 2.25, 0.4, 2.0, 0.9, 3, 4)]))
    assert all(text in shown for text in ("0.7", "law", "10.0", "15.0", "1.60x", "2.25", "0.40", "0.90", "3/4"))


def test_identity_names_the_first_difference_and_its_margin() -> None:
    assert "all 1 speculative outputs equal" in _shown(identity([_comparison("a", "b")]))
    shown = _shown(identity([_comparison("a", "b", difference=Difference(5, 0.0123))]))
    assert "1 of 1 outputs differ" in shown
    assert "law, temperature 0.7: after 5 tokens, top-2 margin 0.012 nats" in shown


def test_the_picture_for_the_readme_shows_the_moment_when_the_faster_one_was_done() -> None:
    drawn = picture(_comparison("one ", "two ", "three ", "four"))
    assert all(text in drawn for text in ("plain", "speculative", "one", "four"))
    assert "font-face" not in drawn  # nothing is fetched
    assert drawn.count("four") == 1  # the plain stream was not there yet
