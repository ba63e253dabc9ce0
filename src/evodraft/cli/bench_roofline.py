"""`evodraft bench roofline`: what reading the weights allows, and what decoding takes. Measures nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from evodraft.cli import options
from evodraft.cli.files import check_writable, write_text
from evodraft.cli.loading import heard, quieten
from evodraft.cli.terminal import note
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.assemble import LoadedTarget, LoadOptions

_BUNDLED = "bundled"


def roofline(
    model: Annotated[
        str, typer.Argument(help="demo, a folder, a hub id, or random:SHAPE (random:llama-3.1-8b, ...).")
    ] = "demo",
    draft: Annotated[
        str | None, typer.Option(help="A folder or hub id; bundled = the one that comes with the target.")
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a sequence when its passes are measured.")] = 128,
    repeats: Annotated[int, typer.Option(min=3, help="Of everything that is measured.")] = 15,
    mal: Annotated[float | None, typer.Option(help="Tokens committed per round, for the best speed-up.")] = None,
    draft_tokens: Annotated[int | None, typer.Option(help="Drafted per round, for the best speed-up.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure how fast weights can be read here, and how far decoding is from that limit."""
    from evodraft.assemble import LoadOptions
    from evodraft.bench.roofline import document, measure_roofline, render

    check_writable(json_path)
    how = LoadOptions(device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    target, draft_model, synthetic = _loaded(model, draft, how)
    with heard(note):
        measured = measure_roofline(
            target,
            draft_model,
            name=model,
            context=context,
            repeats=repeats,
            mean_acceptance_length=mal,
            num_draft_tokens=draft_tokens,
            synthetic=synthetic,
        )
    console = Console()
    console.print(render(measured))
    if json_path is not None:
        write_text(json_path, json.dumps(document(measured), indent=1, allow_nan=False) + "\n")
        console.print(Text(f"figures written to {json_path}"), soft_wrap=True)


def _loaded(model: str, draft: str | None, how: LoadOptions) -> tuple[LoadedTarget, Any, str | None]:
    """(target, draft model or None, why it is synthetic or None)."""
    from evodraft.assemble import load_target
    from evodraft.bench.start import RANDOM
    from evodraft.bench.synthetic import random_pair

    if model.startswith(RANDOM):
        if draft is not None:
            raise BenchError(f"--draft {draft} does not go with {model}, which makes its own draft; leave it out")
        pair = random_pair(model.removeprefix(RANDOM), how.dtype, how.device)
        return pair.target, pair.draft, pair.note
    quieten(model)
    target = load_target(model, how)
    return target, None if draft is None else _draft(draft, target, how), None


def _draft(draft: str, target: LoadedTarget, how: LoadOptions) -> Any:
    from evodraft.runtime.load import load_model

    place = target.bundled_draft if draft == _BUNDLED else draft
    if place is None:
        raise BenchError("no draft comes with this target; pass --draft FOLDER-OR-HUB-ID")
    model = target.model
    return load_model(place, dtype=model.dtype, device=model.device, trust_remote_code=how.trust_remote_code).model
