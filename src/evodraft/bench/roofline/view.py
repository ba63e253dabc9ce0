"""A roofline on a terminal: one table, and what it means in plain sentences. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evodraft.display import printable

if TYPE_CHECKING:
    from evodraft.bench.roofline.record import Limit, Roofline, Speculation


def render(roofline: Roofline) -> Group:
    """The table, then the sentences."""
    lines = [Text(printable(f"- {sentence}")) for sentence in sentences(roofline)]
    return Group(_table(roofline), *lines)


def sentences(roofline: Roofline) -> Iterator[str]:
    """What the figures say, one fact each."""
    target = roofline.target
    read, best = target.read_bytes, target.best
    if roofline.model.synthetic is not None:
        yield f"Synthetic: {roofline.model.synthetic}. These are costs; no model says anything with such weights."
    yield (
        f"One token reads {_mib(read.total)}: {_mib(read.matrices)} in the layers, {_mib(read.head)} in the head, "
        f"{_mib(read.vectors)} of norms and biases, {_mib(read.cache)} of keys and values at {roofline.context} tokens."
    )
    yield (
        f"The fastest kernel here ({best.name}) reads {best.gb_per_s:.1f} GB/s: at that speed a token takes "
        f"{target.limit_ms:.3g} ms, the limit for decoding token by token ({1e3 / target.limit_ms:.0f} tokens/s)."
    )
    yield f"Plain decoding takes {roofline.plain_ms:.3g} ms per token: {roofline.over_limit:.2f} times the limit."
    one, *more = roofline.passes
    yield "Scoring " + ", ".join(f"{p.num_tokens} tokens costs {p.ms / one.ms:.2f}" for p in more) + " times one token."
    if roofline.draft is not None and roofline.draft_step_ms is not None:
        yield (
            f"A step of the draft takes {roofline.draft_step_ms:.3g} ms; its limit is {roofline.draft.limit_ms:.3g} ms."
        )
    if roofline.speculation is not None:
        yield from _speculation(roofline.speculation, has_draft=roofline.draft is not None)
    yield from _caveats(roofline)


def _speculation(speculation: Speculation, *, has_draft: bool) -> Iterator[str]:
    drafting = "" if has_draft else " if drafting costs nothing"
    yield (
        f"With {speculation.num_draft_tokens} draft tokens and {speculation.mean_acceptance_length:.2f} tokens per "
        f"round, a token takes {speculation.limit_ms:.3g} ms at best{drafting}: {speculation.speed_up_at_limit:.2f} "
        f"times as fast as plain decoding at its limit, {speculation.best_speed_up:.2f} times as fast as plain "
        "decoding is here. Only reading is counted, and scoring a draft as one pass that reads the weights once."
    )
    if speculation.expected_speed_up is not None:
        yield (
            f"With passes and draft steps as slow as measured here it is {speculation.expected_speed_up:.2f} times as "
            "fast as plain decoding."
        )


def _caveats(roofline: Roofline) -> Iterator[str]:
    if roofline.cache_bytes is not None and roofline.fits_in_cache:
        yield (
            f"The largest cache ({_mib(roofline.cache_bytes)}) can hold all of it: it may serve these reads, as it may "
            "in decoding. The speed is then not the memory's."
        )
    if not roofline.is_consistent:
        yield (
            "Something was faster than its limit: other work slowed the reading down, or the runtime has a better "
            "kernel. Take no ratio from this; end other work and measure again."
        )
    for kernel, why in roofline.target.left_out.items():
        yield f"Left out: {kernel} ({why})."


def _table(roofline: Roofline) -> Table:
    model, machine = roofline.model, roofline.machine
    where = machine.accelerator or machine.processor
    title = f"{model.name} in {model.dtype} on {where}, {machine.threads} thread(s)"
    table = Table(box=box.SIMPLE_HEAD, title=Text(printable(title)), padding=(0, 1, 0, 0))
    table.add_column("what")
    for heading in ("ms", "GB/s", "times the\nlimit"):
        table.add_column(heading, justify="right")
    _add_limit(table, "target", roofline.target)
    table.add_row("plain decoding, one token", *_timed(roofline.plain_ms, roofline.target), style="bold")
    for cost in roofline.passes:
        table.add_row(f"pass over {cost.num_tokens} token(s)", *_timed(cost.ms, roofline.target))
    if roofline.draft is not None and roofline.draft_step_ms is not None:
        table.add_section()
        _add_limit(table, "draft", roofline.draft)
        table.add_row("draft step", *_timed(roofline.draft_step_ms, roofline.draft))
    return table


def _add_limit(table: Table, who: str, limit: Limit) -> None:
    for kernel in limit.kernels:
        ms = limit.read_bytes.total / kernel.gb_per_s / 1e6
        is_best = kernel == limit.best
        table.add_row(
            f"{who}: reading, {kernel.name}",
            f"{ms:.3g}",
            f"{kernel.gb_per_s:.1f}",
            f"{ms / limit.limit_ms:.2f}",
            style="green" if is_best else None,
        )


def _timed(ms: float, limit: Limit) -> tuple[str, str, str]:
    return f"{ms:.3g}", f"{limit.read_bytes.total / ms / 1e6:.1f}", f"{ms / limit.limit_ms:.2f}"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.2f} MiB"
