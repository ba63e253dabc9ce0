"""`evodraft demo`: both streams side by side, then the figures. Measures nothing itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from evodraft.cli import options
from evodraft.cli.files import write_text
from evodraft.cli.loading import load_llm
from evodraft.display import figures, identity, legend, replay, streams

if TYPE_CHECKING:
    from evodraft.demo import Comparison


def demo(
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 96,
    prompts_per_domain: Annotated[int, typer.Option(min=1, help="Prompts of each of the five domains.")] = 2,
    temperature: Annotated[
        list[float] | None, typer.Option(min=0.0, help="May be repeated; default 0 and 0.7.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random choices.")] = 7,
    drafter: options.Drafter = "auto",
    controller: options.Controller = "auto",
    verifier: options.Verifier = "auto",
    dtype: options.Dtype = "auto",
    runtime: options.Runtime = "auto",
    numerics: options.Numerics = "auto",
    is_replayed: Annotated[
        bool, typer.Option("--replay/--no-replay", help="On a terminal: show the text grow.")
    ] = True,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Answer prompts from five domains plainly and speculatively, and say what it gained."""
    from evodraft.demo import compare, read_prompts, report, summarise

    temperatures = temperature or [0.0, 0.7]
    prompts = read_prompts(prompts_per_domain)
    parts = {"drafter": drafter, "controller": controller, "verifier": verifier}
    parts |= {"dtype": dtype, "runtime": runtime, "numerics": numerics}
    llm = load_llm("demo", **parts)
    console = Console()
    comparisons = _show(
        compare(llm, prompts, temperatures, max_new_tokens, seed),
        len(prompts) * len(temperatures),
        console,
        is_replayed=is_replayed,
    )
    domains = list(dict.fromkeys(prompt.domain for prompt in prompts))
    rows = [summarise(comparisons, domain, t) for t in temperatures for domain in [*domains, "all"]]
    console.print(figures(rows))
    console.print(identity(comparisons))
    if json_path is not None:
        settings = {**parts, "seed": seed, "max_new_tokens": max_new_tokens}
        write_text(json_path, json.dumps(report(rows, comparisons, settings), indent=1) + "\n")
        console.print(Text(f"figures written to {json_path}"), soft_wrap=True)


def _show(measured: Iterator[Comparison], num_runs: int, console: Console, *, is_replayed: bool) -> list[Comparison]:
    """Both streams of every comparison at the first temperature; drawn between measurements, never during one."""
    done: list[Comparison] = []
    screen: AbstractContextManager[Live | None] = nullcontext()
    if sys.stdout.isatty() and console.is_interactive:
        screen = Live(console=console, auto_refresh=False, transient=True)
        console.print(legend())
    with screen as live:
        while len(done) < num_runs:
            if live is not None:
                live.update(Text(f"measuring: {len(done) + 1} of {num_runs} comparisons", "dim"), refresh=True)
            done.append(next(measured))
            if done[-1].temperature != done[0].temperature:
                continue
            if live is not None and is_replayed:
                replay(done[-1], live)
                live.update(Text(""))
            console.print(streams(done[-1]))
    return done
