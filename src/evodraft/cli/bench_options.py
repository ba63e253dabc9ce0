"""Flags of `evodraft bench run`. Does not know what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SIZES = "Size"
_WHO = "Who takes part"
_PROMPTS = "Prompts"

Suite = Annotated[str, typer.Argument(help="domains, spec_bench, shift, batch, ..., or a TOML file.")]
Quick = Annotated[bool, typer.Option("--quick", help="A few minutes instead of an hour.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Page = Annotated[Path | None, typer.Option("--html", help="Write a page with pictures to this file.")]
Draft = Annotated[
    str | None, typer.Option(help="Draft model, for drafter auto and for peers.", rich_help_panel="Model and parts")
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="Of the suite, or drafter=...,controller=...; repeatable.", rich_help_panel=_WHO),
]
Peers = Annotated[
    list[str] | None,
    typer.Option("--peer", help="NAME/MODE, see `bench peers`; repeatable.", rich_help_panel=_WHO),
]
Baseline = Annotated[str, typer.Option(help="What speeds are divided by.", rich_help_panel=_WHO)]
PeersFolder = Annotated[Path, typer.Option(help="Pins and environments of peers.", rich_help_panel=_WHO)]
ForceAcceptance = Annotated[
    float | None,
    typer.Option(help="Accept drafts at this rate, whatever they say: synthetic.", rich_help_panel=_WHO),
]
Conditions = Annotated[
    list[str] | None, typer.Option("--condition", help="Of the suite; repeatable.", rich_help_panel=_SIZES)
]
Prompts = Annotated[Path | None, typer.Option(help="JSONL with prompts of your own.", rich_help_panel=_PROMPTS)]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of benchmark prompts; default: $EVODRAFT_BENCH_DATA.", rich_help_panel=_PROMPTS),
]
PerGroup = Annotated[int | None, typer.Option("--prompts-per-group", help="Of each domain.", rich_help_panel=_SIZES)]
Length = Annotated[int | None, typer.Option("--max-new-tokens", help="Tokens per answer.", rich_help_panel=_SIZES)]
Repeats = Annotated[int | None, typer.Option(help="At least 3.", rich_help_panel=_SIZES)]
Seed = Annotated[int | None, typer.Option(help="Of prompts and answers.", rich_help_panel=_SIZES)]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="For everybody; default: torch's.", rich_help_panel=_WHO)
]

PEERS_FOLDER = Path("benchmarks/peers")
