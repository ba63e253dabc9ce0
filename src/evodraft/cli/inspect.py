"""`evodraft inspect`: what would happen if a model were loaded, for people or as JSON. Finds out nothing itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evodraft.cli import options
from evodraft.cli.loading import quieten, sign_of_life
from evodraft.cli.terminal import write
from evodraft.display import printable

if TYPE_CHECKING:
    from evodraft.inspection import Report
    from evodraft.inspection.report import DrafterReport, LoadedReport, MemoryReport, ModelReport, RuntimeChoice

_LIMITS = "Limits of the engine"
_EXAMPLE_PROMPT = "The history of the world is"


def inspect(
    model: Annotated[str, typer.Argument(help="demo, a folder, or a hub id.")] = "demo",
    drafter: options.Drafter = "auto",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    numerics: options.Numerics = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    max_batch: Annotated[int, typer.Option(help="Sequences decoded at once.", rich_help_panel=_LIMITS)] = 8,
    max_model_len: Annotated[
        int | None, typer.Option(help="Tokens per sequence; default: what fits.", rich_help_panel=_LIMITS)
    ] = None,
    kv_cache_gib: Annotated[
        float | None, typer.Option(help="Memory for the caches; default: by the device.", rich_help_panel=_LIMITS)
    ] = None,
    load: Annotated[bool, typer.Option("--load", help="Load it for real and say a few tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead of text.")] = False,
) -> None:
    """Say what loading a model would do: runtime, numerics, memory, drafter, warnings, and the command to run."""
    from evodraft.assemble import LoadOptions
    from evodraft.config import EngineConfig
    from evodraft.inspection import inspect_target, try_out

    quieten(model)
    how = LoadOptions(device, dtype, runtime, numerics, revision, trust_remote_code)
    limits = EngineConfig(max_batch, max_model_len, kv_cache_gib)
    report = inspect_target(model, drafter, how, limits)
    if load and report.can_run:
        with sign_of_life(model):
            report = replace(report, loaded=try_out(model, drafter, how, limits))
    named = {"drafter": drafter, "dtype": dtype, "device": device, "runtime": runtime, "numerics": numerics}
    flags = {**named, "revision": revision}
    command = _command(model, flags, trust_remote_code)
    if as_json:
        write(json.dumps(asdict(report) | {"can_run": report.can_run, "command": command}) + "\n")
    else:
        _show(report, model, command)
    raise typer.Exit(0 if report.can_run else 1)


def _command(model: str, flags: dict[str, str | None], trust_remote_code: bool) -> str:
    """The shell command with every flag that is not the default anyway; limits are `generate`'s own."""
    words = ["evodraft", "generate", "--model", model]
    for name, value in flags.items():
        if value not in (None, "auto"):
            words += [f"--{name}", str(value)]
    words += ["--trust-remote-code"] if trust_remote_code else []
    return shlex.join([*words, _EXAMPLE_PROMPT])


def _show(report: Report, model: str, command: str) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _rows(report, model):
        table.add_row(label, Text(printable(text)))
    for label, style, lines in (("problem", "red", report.problems), ("warning", "yellow", report.warnings)):
        for line in lines:
            table.add_row(Text(label, style), Text(printable(line), style))
    console = Console()
    console.print(table)
    if report.can_run:
        for line in ("", command, report.python):
            console.print(Text(printable(line), "green"), soft_wrap=True)


def _rows(report: Report, model: str) -> Iterator[tuple[str, str]]:
    machine = report.machine
    yield "target", f"{model}: {_model(report.target)}"
    features = f"; {' '.join(machine.features)}" if machine.features else ""
    yield (
        "machine",
        f"{machine.device}: {machine.device_name}, {machine.num_threads} thread(s), {_size(machine.memory_bytes)}, "
        f"{_size(machine.free_bytes)} free{features}",
    )
    yield "versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield from _runtime_rows("runtime", report.runtime)
    yield from _drafter_rows(report.drafter)
    if report.memory is not None:
        yield "memory", _memory(report.memory)
    if report.loaded is not None:
        yield "loaded", _loaded(report.loaded)
        yield from _runtime_rows("runtime", report.loaded.runtime)
        yield from _runtime_rows("draft by", report.loaded.draft_runtime)


def _runtime_rows(label: str, runtime: RuntimeChoice | None) -> Iterator[tuple[str, str]]:
    """Nothing of what cannot be decoded."""
    if runtime is None:
        return
    yield label, f"{runtime.name}: {runtime.why}"
    for over in runtime.passed_over:
        yield "passed over", f"{over.name}: {over.why}"
    if runtime.numerics is not None:
        yield "numerics", f"{runtime.numerics.name}: {runtime.numerics.why}"


def _model(model: ModelReport) -> str:
    context = "no stated context" if model.context_length is None else f"context {model.context_length}"
    files = "not on this disk" if model.num_file_bytes is None else f"{_size(model.num_file_bytes)} on this disk"
    return (
        f"{model.architecture}, {_count(model.num_parameters)} parameters, {model.num_layers} layers, {context}, "
        f"{model.vocab_size} token rows; {_size(model.weight_bytes)} in {model.dtype}, {files}"
    )


def _drafter_rows(drafter: DrafterReport) -> Iterator[tuple[str, str]]:
    yield "drafter", f"{drafter.name or 'none'}: {drafter.why}"
    if drafter.model is not None:
        yield "", f"{drafter.model.name}: {_model(drafter.model)}"
    if drafter.license is not None:
        verified = "verified" if drafter.is_verified else "not verified"
        yield "", f"revision {drafter.revision}, licence {drafter.license}, {verified}"
    yield from _runtime_rows("draft by", drafter.runtime)
    if drafter.tokens is not None:
        yield "tokens", f"{drafter.tokens.name}: {drafter.tokens.why}"
    if drafter.cost_ratio is not None:
        yield (
            "cost",
            f"{drafter.cost_ratio:.2f} of the target's bytes: {drafter.best_speed_up:.2f}x with "
            f"{drafter.best_num_draft_tokens} draft tokens a round, the best length if time goes with bytes and "
            f"{drafter.assumed_acceptance:.0%} of the tokens are accepted",
        )
    for over in drafter.passed_over:
        yield "passed over", f"{over.name}: {over.why}"


def _memory(memory: MemoryReport) -> str:
    fits = "fits" if memory.is_enough else "more than is free now"
    return (
        f"{_size(memory.weight_bytes)} of weights + up to {_size(memory.cache_bytes)} of caches "
        f"({memory.max_batch} sequences of {memory.max_model_len} tokens at {memory.cache_bytes_per_token} bytes, "
        f"budget {_size(memory.cache_budget_bytes)}) = {_size(memory.needed_bytes)}: {fits}"
    )


def _loaded(loaded: LoadedReport) -> str:
    return (
        f"{loaded.drafter or 'no drafter'}, sequences of {loaded.max_model_len} tokens; {loaded.num_equal_tokens} of "
        f"{loaded.num_tokens} tokens equal to plain decoding, acceptance rate {loaded.acceptance_rate:.2f}"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:.0f} MiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
