"""The list of commands, and how a command ends: one line for a user's mistake, a stack trace for ours.

Does not know what any command does. Nothing that `--help` runs through may import torch, which takes seconds.
"""

from __future__ import annotations

import io
import sys
from importlib import metadata
from typing import Annotated

import typer

from evodraft.cli.bench import build_bench
from evodraft.cli.chat import chat
from evodraft.cli.demo import demo
from evodraft.cli.generate import generate
from evodraft.cli.inspect import inspect
from evodraft.cli.terminal import complain
from evodraft.cli.train import train
from evodraft.errors import EvodraftError


def build_app() -> typer.Typer:
    """The command line with all its commands, in the order in which `--help` shows them."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # a plain stack trace can be pasted into an issue
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in (demo, generate, chat, inspect):
        app.command()(command)
    app.add_typer(build_bench(), name="bench")
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}  # --help too: it is the recipes' own
    app.command(context_settings=passed_on, add_help_option=False)(train)
    return app


def main() -> None:
    """Entry point. Exit codes: docs/cli.md."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what the terminal's encoding cannot
    try:
        build_app()()
    except EvodraftError as error:
        complain(error)
        sys.exit(2)


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """evodraft: language models generate faster without changing what they say."""


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"evodraft {metadata.version('evodraft')}")
        raise typer.Exit
