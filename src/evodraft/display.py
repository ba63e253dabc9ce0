"""What the command line shows: panels and tables of the demo. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from evodraft.demo import Comparison, Row


def answer_panel(comparison: Comparison) -> Panel:
    """A prompt with its speculative answer and how it was reached."""
    plain, fast = comparison.plain.stats, comparison.speculative.stats
    answer = Text(comparison.speculative.text.strip() or "(no text)")
    footer = (
        f"{plain.tokens_per_second:.0f} -> {fast.tokens_per_second:.0f} tokens/s, "
        f"{fast.mean_acceptance_length:.2f} tokens per round"
    )
    body = Text.assemble((comparison.prompt.text + "\n", "bold"), answer)
    return Panel(body, title=comparison.prompt.domain, subtitle=footer, title_align="left", subtitle_align="right")


def figures(rows: Sequence[Row]) -> Table:
    """One line per temperature and domain."""
    table = Table(
        title="plain and speculative decoding in the same runtime, one request at a time",
        caption="MAL: mean acceptance length, committed tokens per round (plain = 1). Repetition lowers pooled "
        "distinct-4 and flatters drafters.",
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
            f"{row.speed_up:.2f}x",
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
