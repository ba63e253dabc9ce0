"""`evodraft train vocabulary`: a token map for a target. Knows how the parts fit together, not how ids are counted."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from evodraft.drafters.token_map import write_token_map
from evodraft.drafters.vocabulary import required_ids
from evodraft.errors import TrainingError
from evodraft.runtime.load import load_config, load_tokenizer
from evodraft.training.vocabulary import Extract, answers_of, balanced, count_file, most_frequent, texts_of, token_share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEMO: Final = "demo"
_DEFAULT_SIZE: Final = 2048


def make_vocabulary(
    target: Annotated[str, typer.Option(help="demo, a folder, or a hub id.")],
    out: Annotated[list[Path], typer.Option(help="File to write: .pt, .json or .txt; repeatable.", dir_okay=False)],
    texts: Annotated[
        list[Path] | None, typer.Option(help="JSON lines with `text`, or `prompt` and `response`; repeatable.")
    ] = None,
    generated: Annotated[
        list[Path] | None, typer.Option(help="JSON lines of the target's answers: `response`; repeatable.")
    ] = None,
    size: Annotated[int, typer.Option(help="Ids in all, special and chat tokens among them.", min=1)] = _DEFAULT_SIZE,
    group_by: Annotated[
        str | None, typer.Option(help="Field of the records, e.g. domain: each of its values weighs the same.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Count token ids over texts or over a target's answers, and write the most frequent."""
    place = _place(target)
    tokenizer, config = load_tokenizer(place, revision=revision), load_config(place, revision=revision)
    vocab_size = config.get_text_config().vocab_size
    sources = {**dict.fromkeys(texts or (), texts_of), **dict.fromkeys(generated or (), answers_of)}
    if not sources:
        raise TrainingError("there is nothing to count; pass --texts or --generated")
    groups = _counted(sources, tokenizer, vocab_size, group_by)
    ids = most_frequent(balanced(groups), size, required_ids(tokenizer, vocab_size))
    for path in out:
        write_token_map(path, ids)
    for group, counts in sorted(groups.items()):
        share = f"{token_share(counts, ids):.1%} of {int(counts.sum()):,} tokens are in the map"
        typer.echo(f"{group}: {share}" if group else share)
    typer.echo(f"{len(ids)} of {vocab_size} ids; written: {', '.join(path.name for path in out)}")


def _place(target: str) -> str:
    if target != _DEMO:
        return target
    try:
        return str(importlib.resources.files("evodraft_demo") / "target")
    except ModuleNotFoundError:
        raise TrainingError("the demo models are not installed; run 'pip install evodraft-demo'") from None


def _counted(
    sources: Mapping[Path, Extract], tokenizer: PreTrainedTokenizerBase, vocab_size: int, group_by: str | None
) -> dict[str, torch.Tensor]:  # group -> [vocab]
    """Over all files."""
    groups: dict[str, torch.Tensor] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for path, extract in sources.items():
            task = bar.add_task(path.name, total=path.stat().st_size if path.is_file() else None)
            found = count_file(path, extract, tokenizer, vocab_size, group_by, partial(_advance, bar, task))
            groups |= {group: counts + groups.get(group, 0) for group, counts in found.items()}
    return groups


def _advance(bar: Progress, task: TaskID, num_bytes: int) -> None:
    bar.update(task, completed=num_bytes)
