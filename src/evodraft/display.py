"""What the command line shows: both streams of the demo, its tables, one line of figures. Measures nothing.

Text of models and users is shown literally: no markup, and no control characters that could steer the terminal.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.live import Live

    from evodraft.demo import Comparison, Recording, Row
    from evodraft.types import Completion

ACCEPTED: Final = "green"  # tokens that the draft guessed and the target accepted
_FRAMES_PER_S: Final = 20
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


def printable(text: str) -> str:
    r"""`text` with control characters replaced: a model may say what would steer the terminal.

    >>> printable("a\x1b[2Jb\tc")
    'a\ufffd[2Jb\tc'
    """
    return _CONTROL.sub("\ufffd", text)


def legend() -> Text:
    """What the colours of `streams` mean."""
    return Text.assemble(("coloured", ACCEPTED), ": guessed by the draft and accepted; the rest is the target's own")


def streams(comparison: Comparison, elapsed_s: float | None = None) -> Table:
    """Both answers side by side as they were `elapsed_s` after decoding began; None = complete."""
    prompt = Text(printable(f"{comparison.prompt.domain}: {comparison.prompt.text}"), "bold")
    table = Table(box=box.ROUNDED, expand=True, title=prompt, title_justify="left", title_style="", show_footer=True)
    for name, recording in (("plain", comparison.plain), ("speculative", comparison.speculative)):
        table.add_column(name, _progress(recording, elapsed_s), ratio=1, overflow="fold")
    table.add_row(_grown(comparison.plain, elapsed_s), _grown(comparison.speculative, elapsed_s))
    return table


def replay(
    comparison: Comparison,
    live: Live,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Lets both streams grow in `live` from the same moment on, each at the pace that was recorded."""
    started = clock()
    end_s = max(recording.completion.stats.decode_s for recording in (comparison.plain, comparison.speculative))
    while (elapsed_s := clock() - started) < end_s:
        live.update(streams(comparison, elapsed_s), refresh=True)
        sleep(1 / _FRAMES_PER_S)


def summary(completion: Completion) -> str:
    """One line of figures about one answer; definitions in docs/glossary.md."""
    stats = completion.stats
    parts = [f"{stats.num_tokens} tokens in {stats.decode_s:.2f} s", f"{stats.tokens_per_second:.0f} tokens/s"]
    if stats.num_rounds:
        parts.append(f"{stats.mean_acceptance_length:.2f} tokens per round")
        parts.append(f"acceptance rate {stats.acceptance_rate:.2f}")
    return ", ".join([*parts, f"finish: {completion.finish_reason}", f"seed: {completion.seed}"])


def figures(rows: Sequence[Row]) -> Table:
    """One line per temperature and domain."""
    table = Table(
        title="plain and speculative decoding in the same runtime, one request at a time",
        caption="MAL: mean acceptance length, committed tokens per round (plain = 1). Speed-up: median of the prompts' "
        "own. Repetition lowers pooled distinct-4 and flatters drafters.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("temp.", "domain"):
        table.add_column(name, no_wrap=True)
    for name in ("plain\ntok/s", "specul.\ntok/s", "speed-\nup", "MAL", "accept.\nrate", "pooled\ndist-4", "identical"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.temperature:g}",
            row.domain,
            f"{row.plain_tokens_per_s:.1f}",
            f"{row.speculative_tokens_per_s:.1f}",
            f"{row.median_speed_up:.2f}x",
            f"{row.mean_acceptance_length:.2f}",
            f"{row.acceptance_rate:.2f}",
            f"{row.pooled_distinct_4:.2f}",
            f"{row.num_identical}/{row.num_prompts}",
            style="bold" if row.domain == "all" else None,
            end_section=row.domain == "all",
        )
    return table


def identity(comparisons: Sequence[Comparison]) -> Text:
    """Whether plain and speculative outputs are the same, and if not, where they part and how close the tie was."""
    different = [comparison for comparison in comparisons if comparison.difference is not None]
    if not different:
        return Text(
            f"identical: all {len(comparisons)} speculative outputs equal the plain ones token by token", "green"
        )
    lines = [f"{len(different)} of {len(comparisons)} outputs differ from the plain ones; first differences:"]
    for comparison in different:
        assert comparison.difference is not None
        lines.append(
            f"  {comparison.prompt.domain}, temperature {comparison.temperature:g}: after "
            f"{comparison.difference.position} tokens, top-2 margin {comparison.difference.margin_nats:.2g} nats"
        )
    return Text("\n".join(lines), "yellow")


def _grown(recording: Recording, elapsed_s: float | None) -> Text:
    """The text that had arrived, accepted tokens in colour."""
    arrived = [span for span in recording.spans if elapsed_s is None or span.at_s <= elapsed_s]
    text = Text.assemble(*((printable(span.text), ACCEPTED if span.is_accepted else "") for span in arrived))
    if elapsed_s is None and not text.plain.strip():
        return Text("(no text)", "dim")
    return text


def _progress(recording: Recording, elapsed_s: float | None) -> Text:
    """Tokens and tokens per second up to then."""
    stats = recording.completion.stats
    seconds = stats.decode_s if elapsed_s is None else min(elapsed_s, stats.decode_s)
    num_tokens = sum(span.at_s <= seconds for span in recording.spans)
    speed = f"{num_tokens / seconds if seconds > 0 else 0:.0f} tokens/s"
    if stats.num_rounds and seconds == stats.decode_s:
        speed += f", {stats.mean_acceptance_length:.2f} tokens per round"
    return Text(f"{speed}\n{num_tokens} tokens in {seconds:.2f} s", "bold")
