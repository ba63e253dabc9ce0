"""`evodraft train generate|head`: an EAGLE-3 head for any causal language model that transformers loads.

Every path is an option. Knows how the parts fit together; does not know how any of them works.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.progress import Progress

from evodraft.drafters.eagle.files import save_head
from evodraft.errors import TrainingError
from evodraft.runtime.load import load_model
from evodraft.training.answers import read_prompts, write_answers
from evodraft.training.data import BatchSampler, build_streams
from evodraft.training.generated import Document, MixedRows, PackedRows, hash_documents, read_documents
from evodraft.training.generation import batch_answers
from evodraft.training.head import HeadRecipe, HeadTrainer, Length
from evodraft.training.head_score import DepthMeans, score_head
from evodraft.training.head_start import new_head
from evodraft.training.mix import DEMO_MIX
from evodraft.training.observe import check_target
from evodraft.training.progress import ProgressReport
from evodraft.training.provenance import HeldOut, describe_run
from evodraft.training.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HISTORY_FILE = "history.jsonl"
MAX_SCORED_ROWS = 16  # of each domain

Dtype = Annotated[str, typer.Option(help="Of the target's weights.")]
Device = Annotated[str, typer.Option(help="Where the target runs.")]
Threads = Annotated[int, typer.Option(help="CPU threads.", min=1)]


def make_answers(
    target: Annotated[str, typer.Option(help="Folder or hub name of the target.")],
    prompts: Annotated[Path, typer.Option(help="JSON lines with `prompt` or `text`.", dir_okay=False)],
    out: Annotated[Path, typer.Option(help="JSON lines to write; answers in it are kept.", dir_okay=False)],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=1)] = 128,
    temperatures: Annotated[str, typer.Option(help="Of the answers, in turn, comma-separated.")] = "0,0.7,1",
    batch: Annotated[int, typer.Option(help="Prompts answered at once.", min=1)] = 16,
    seed: int = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Let the target answer prompts, for a head to learn from; an interrupted run goes on where it was."""
    torch.set_num_threads(threads)
    model, tokenizer = load_model(target, dtype=dtype, device=device)
    asked, answer = read_prompts(prompts, tokenizer), batch_answers(model, max_new_tokens, seed)
    with Progress() as progress:
        task = progress.add_task("answers", total=len(asked))
        write_answers(
            asked,
            answer,
            out,
            temperatures=_numbers(temperatures),
            batch=batch,
            report=lambda done: progress.update(task, completed=done),
        )


def make_head(
    target: Annotated[str, typer.Option(help="Folder or hub name of the target.")],
    generated: Annotated[list[Path], typer.Option(help="Its answers, from `generate`.", dir_okay=False)],
    run: Annotated[Path, typer.Option(help="Folder for checkpoints; a run in it is resumed.", file_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder to write.", file_okay=False)],
    domains: Annotated[str | None, typer.Option(help="Only these domains, comma-separated.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time, over all starts.")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Steps; the shorter of both ends a run.", min=1)] = None,
    corpus: Annotated[Path | None, typer.Option(help="Demo corpus whose rows are mixed in.", file_okay=False)] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for its tokenised streams.", file_okay=False)] = None,
    corpus_share: float = 0.15,
    taps: Annotated[str | None, typer.Option(help="Layers of the target to read, comma-separated.")] = None,
    num_depths: Annotated[int, typer.Option(help="Steps of the roll-out.", min=1)] = 5,
    root_share: Annotated[float, typer.Option(help="Positions that go on after its first step.")] = 0.5,
    batch: Annotated[int, typer.Option(help="Rows of a step.", min=1)] = 8,
    context: Annotated[int, typer.Option(help="Tokens of a row.", min=4)] = 256,
    matrix_rate: float = 4e-3,
    other_rate: float = 2e-3,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 100,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train or resume an EAGLE-3 head, then write its folder with a provenance record."""
    torch.set_num_threads(threads)
    recipe = HeadRecipe(num_depths, root_share=root_share, batch=batch, context=context)
    recipe = replace(recipe, matrix_rate=matrix_rate, other_rate=other_rate)
    chosen = None if domains is None else domains.split(",")
    model = load_model(target, dtype=dtype, device=device).model
    check_target(model)
    documents = read_documents(generated, chosen)
    source = None if corpus is None else _corpus_rows(corpus, cache, Path(target), chosen, recipe.seed + 1)
    rows = MixedRows(_packed(documents, recipe.seed), source, corpus_share if corpus else 0.0)
    head = new_head(model, None if taps is None else tuple(int(tap) for tap in _numbers(taps)), recipe.seed)
    trainer = HeadTrainer(model, head, rows, recipe, run)
    trainer.resume()
    _train(trainer, Length(num_steps, minutes), checkpoint_every)
    record = _describe(trainer, documents, rows.corpus_share)
    save_head(head, out, target=model, target_name=Path(target).name, provenance=record)


def _packed(documents: Sequence[Document], seed: int) -> PackedRows:
    return PackedRows([document.ids for document in documents if not document.is_held_out], seed)


def _corpus_rows(corpus: Path, cache: Path | None, target: Path, domains: list[str] | None, seed: int) -> BatchSampler:
    if cache is None:
        raise TrainingError("--corpus needs --cache, a folder for its tokenised streams; give both or neither")
    sources = [source for source in DEMO_MIX.sources if domains is None or source.domain in domains]
    weights = {source.slug: DEMO_MIX.late_shares[source.slug] for source in sources}
    total = sum(weights.values())
    if not total:
        raise TrainingError(f"the demo mix has no rows of the domains {domains}; leave out --corpus or name others")
    streams = build_streams(corpus, DEMO_MIX, load_tokenizer(target), cache)
    shares = {slug: weight / total for slug, weight in weights.items()}
    return BatchSampler(streams, shares, torch.Generator().manual_seed(seed))


def _train(trainer: HeadTrainer, length: Length, checkpoint_every: int) -> None:
    """With a line of progress in thousandths of `length`, which may be a time."""

    def measure(_: object = None) -> float:
        return 1000 * min(1.0, length.share(trainer.step, trainer.seconds))

    with (
        _stopping_on_sigterm(trainer),
        ProgressReport("head", 1000, measure(), trainer.folder / HISTORY_FILE, measure) as report,
    ):
        trainer.run(length, checkpoint_every, report)


@contextmanager
def _stopping_on_sigterm(trainer: HeadTrainer) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _held_out_scores(trainer: HeadTrainer, documents: Sequence[Document]) -> dict[str, DepthMeans]:
    held_out: dict[str, list[list[int]]] = defaultdict(list)
    for document in documents:
        if document.is_held_out:
            held_out[document.domain].append(document.ids)
    recipe, scores = trainer.recipe, {}
    for domain, texts in held_out.items():
        num_rows = max(1, min(MAX_SCORED_ROWS, sum(len(text) for text in texts) // recipe.context))
        rows = PackedRows(texts, recipe.seed).next_batch(num_rows, recipe.context)
        scores[domain] = score_head(trainer.target, trainer.head, rows, recipe.num_depths)
    return scores


def _describe(trainer: HeadTrainer, documents: Sequence[Document], corpus_share: float) -> dict[str, Any]:
    scores = _held_out_scores(trainer, documents)
    losses = HeldOut({domain: means.divergence[0] for domain, means in scores.items()}, {})
    recipe = trainer.recipe.as_dict() | {"num_steps": trainer.step, "corpus_share": corpus_share}
    record = describe_run(hash_documents(documents), recipe, losses, trainer.seconds, trainer.num_tokens)
    return record.as_dict() | {"held_out": {domain: means._asdict() for domain, means in scores.items()}}


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise TrainingError(f"{text!r} are not numbers, comma-separated") from error
