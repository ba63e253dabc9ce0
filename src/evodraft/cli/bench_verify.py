"""`evodraft bench verify`: exactness and speed of a user's own pair. Measures nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from evodraft.cli import options
from evodraft.cli.bench_progress import command_line, progress
from evodraft.cli.files import check_writable, write_text
from evodraft.cli.loading import quieten

NOT_VERIFIED = 3  # exit code


def verify(
    model: Annotated[str, typer.Argument(help="demo, a folder, or a hub id.")],
    drafter: options.Drafter = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter answers.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSONL with prompts of your own.")] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    numerics: options.Numerics = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Check that a pair says what its target says, and measure what it gains. Exit code 3: it is not verified.

    Exactness is judged in float32, which takes twice the memory of a 16-bit model.
    """
    from evodraft.bench.report import terminal
    from evodraft.bench.start import Wishes
    from evodraft.bench.verify import as_document
    from evodraft.bench.verify import verify as measure

    check_writable(json_path)
    quieten(model)
    how = {"dtype": dtype, "device": device, "runtime": runtime, "numerics": numerics}
    load = {**how, "revision": revision, "trust_remote_code": trust_remote_code}
    wishes = Wishes("verify", is_quick=quick, model=model, prompts=prompts, load=load, command=command_line())
    with progress() as show:
        found = measure(wishes, drafter, show)
    console = Console()
    for result in (found.exactness, found.speed):
        console.print(terminal(result))
    same = f"{found.reference.num_identical} of {found.reference.num_outputs}"
    console.print(Text(f"plain greedy outputs equal to transformers' own in float32: {same}"))
    if json_path is not None:
        write_text(json_path, json.dumps(as_document(found), indent=1, allow_nan=False) + "\n")
        console.print(Text(f"written to {json_path}"), soft_wrap=True)
    if found.is_verified:
        console.print(Text("verified", "bold green"))
        return
    for reason in found.reasons:
        console.print(Text(f"not verified: {reason}", "yellow"), soft_wrap=True)
    raise typer.Exit(NOT_VERIFIED)
