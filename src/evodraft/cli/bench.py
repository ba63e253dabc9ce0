"""`evodraft bench run`, `report` and `peers`. Measures and draws nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from evodraft.cli import bench_options, options
from evodraft.cli.bench_progress import command_line, progress
from evodraft.cli.bench_roofline import roofline
from evodraft.cli.bench_verify import verify
from evodraft.cli.files import check_writable, write_text
from evodraft.cli.loading import quieten
from evodraft.cli.terminal import note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evodraft.bench.result import Result

NOT_TO_BE_TRUSTED = 3  # exit code: measured, but a row or its check failed, or the machine was too noisy


def build_bench() -> typer.Typer:
    """The commands below `evodraft bench`."""
    app = typer.Typer(no_args_is_help=True, help="Measure methods and peers side by side.")
    for command in (run, report, roofline, verify, peers):
        app.command()(command)
    return app


def run(
    suite: bench_options.Suite,
    quick: bench_options.Quick = False,
    json_path: bench_options.Json = None,
    html_path: bench_options.Page = None,
    model: options.Model = "demo",
    draft: bench_options.Draft = None,
    method: bench_options.Methods = None,
    peer: bench_options.Peers = None,
    baseline: bench_options.Baseline = "plain",
    peers_folder: bench_options.PeersFolder = bench_options.PEERS_FOLDER,
    force_acceptance: bench_options.ForceAcceptance = None,
    threads: bench_options.Threads = None,
    condition: bench_options.Conditions = None,
    prompts: bench_options.Prompts = None,
    data: bench_options.Data = None,
    prompts_per_group: bench_options.PerGroup = None,
    max_new_tokens: bench_options.Length = None,
    repeats: bench_options.Repeats = None,
    seed: bench_options.Seed = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    numerics: options.Numerics = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure a suite and show what came of it. Exit code 3: a row or its check failed, or the machine was noisy."""
    from evodraft.bench import start

    sizes = {"prompts_per_group": prompts_per_group, "max_new_tokens": max_new_tokens, "repeats": repeats, "seed": seed}
    how = {"dtype": dtype, "device": device, "runtime": runtime, "numerics": numerics}
    load = {**how, "revision": revision, "trust_remote_code": trust_remote_code}
    who = (tuple(method or ()), tuple(peer or ()), baseline, peers_folder, data, prompts, force_acceptance, threads)
    overrides = {"conditions": condition, **sizes}
    wishes = start.Wishes(suite, quick, model, draft, *who, load=load, overrides=overrides, command=command_line())
    _check_outputs(json_path, html_path)
    quieten("demo" if model.startswith(start.RANDOM) else model)  # random weights are not downloaded either
    with progress() as show:
        result = start.start(wishes, show)
    _finish(result, json_path, html_path)


def report(
    results: Annotated[list[Path], typer.Argument(help="Files that `bench run --json` wrote.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown instead of a table.")] = False,
    html_path: bench_options.Page = None,
) -> None:
    """Show results: as tables, as Markdown, or as a page with pictures."""
    from evodraft.bench import report as show
    from evodraft.bench.schema import read

    found = [read(path) for path in results]
    console = Console()
    for result in found:
        if markdown:
            typer.echo(show.markdown(result))
        elif html_path is None:
            console.print(show.terminal(result))
    if html_path is not None:
        _write_page(found, html_path)


def peers(
    install: Annotated[list[str] | None, typer.Option(help="Make the environment of this peer; repeatable.")] = None,
    peers_folder: bench_options.PeersFolder = bench_options.PEERS_FOLDER,
) -> None:
    """List the peers and their modes, or make their environments."""
    from evodraft.bench.peers import PEERS
    from evodraft.bench.peers.install import install as make
    from evodraft.bench.peers.install import installed
    from evodraft.errors import UnknownOptionError

    for name in install or ():
        if name not in PEERS:
            raise UnknownOptionError("peer", name, PEERS)
        make(PEERS[name], peers_folder, note)
    console = Console()
    for known in PEERS.values():
        state = "installed" if installed(known, peers_folder) else "not installed"
        console.print(Text(f"{known.name} ({state}): {known.about}", "bold"), soft_wrap=True)
        for mode, entry in known.modes.items():
            console.print(Text(f"  {known.name}/{mode}: {entry.about}"), soft_wrap=True)


def _finish(result: Result, json_path: Path | None, html_path: Path | None) -> None:
    """Shows and writes a result; ends with an exit code where it is not to be trusted."""
    from evodraft.bench import report as show
    from evodraft.bench.schema import write

    console = Console()
    console.print(show.terminal(result))  # first: it cannot fail for want of room on a disk
    if json_path is not None:
        write(json_path, result)
        console.print(Text(f"result written to {json_path}"), soft_wrap=True)
    if html_path is not None:
        _write_page([result], html_path)
    doubts = list(_doubts(result))
    for doubt in doubts:
        note(doubt)
    if doubts:
        raise typer.Exit(NOT_TO_BE_TRUSTED)


def _doubts(result: Result) -> Iterator[str]:
    """Why a result is not to be trusted as a whole."""
    failed = sum(row.error is not None for row in result.rows)
    if failed:
        yield f"rows that failed: {failed}"
    wrong = sum(row.check is not None and not row.check.is_passed for row in result.rows)
    if wrong:
        yield f"rows whose check failed: {wrong}; what they say is not what the target says"
    if result.noise is None or not result.noise.is_quiet:
        yield "machine too noisy: the baseline differs from itself; end other work and measure again"


def _check_outputs(json_path: Path | None, html_path: Path | None) -> None:
    """What would stop a result from being written must be said before an hour of measuring, not after it."""
    check_writable(json_path)
    check_writable(html_path)
    if html_path is not None:
        from evodraft.bench.report.drawing import check_installed

        check_installed()


def _write_page(results: list[Result], path: Path) -> None:
    from evodraft.bench import report as show

    write_text(path, show.html(results))
    note(f"page written to {path}")
