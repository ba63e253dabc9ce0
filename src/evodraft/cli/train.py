"""`evodraft train`: hands its arguments on to the recipes, which are imported only then. Does not know them."""

from __future__ import annotations

from typing import Any

import typer


def train(context: typer.Context) -> None:
    """Make a tokenizer, a target, a draft, a head, a vocabulary, a bundle; see `evodraft train --help`."""
    from evodraft.training.__main__ import build_app

    exit_code: Any = build_app()(
        args=context.args,
        prog_name=context.command_path,
        standalone_mode=False,  # errors end as those of every other command
        help_option_names=context.help_option_names,
    )
    raise typer.Exit(exit_code or 0)
