"""Commands that make a bundle from a corpus: `evodraft train tokenizer|target|draft|head|bundle|...`.

Every path is an option. Knows how the recipes fit together; does not know how any of them works.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from evodraft.errors import TrainingError
from evodraft.runtime.integrity import MANIFEST_FILE, check_manifest
from evodraft.training.bundle import (
    HEADS,
    WEIGHTS_FILE,
    bundle_head,
    bundle_vocabulary,
    bundled_provenance,
    head_provenance,
    load_model,
    load_provenance,
    save_model,
    save_provenance,
    verify_bundle,
    write_manifest,
)
from evodraft.training.checkpoint import hash_file
from evodraft.training.data import BatchSampler, build_streams, hash_streams, sample_texts
from evodraft.training.draft import DraftRecipe, distil, slice_draft
from evodraft.training.evaluate import distinct_share, domain_losses, position_losses, stream_losses
from evodraft.training.generation import greedy_continuations, sampled_continuations
from evodraft.training.head_command import make_answers, make_head
from evodraft.training.llama import Shape
from evodraft.training.measure import (
    EVALUATION_CONTEXT,
    chat_ids,
    measure_cost,
    measure_exits,
    measure_fit,
    measure_head,
    measure_model,
    measure_outputs,
)
from evodraft.training.mix import DEMO_MIX
from evodraft.training.optimizers import OptimizerName
from evodraft.training.progress import ProgressReport
from evodraft.training.provenance import HeldOut, Provenance, describe_machine, describe_run
from evodraft.training.target import Phase, TargetRecipe, TargetTrainer
from evodraft.training.tokenizer import VOCABULARY_SIZE, load_tokenizer, save_tokenizer, special_ids, train_tokenizer
from evodraft.training.vocabulary_command import make_vocabulary

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from evodraft.training.data import TokenArray

COST_DTYPES = (torch.float32, torch.bfloat16)
DEFAULT_LATE_FROM = 1250
PROVENANCE_FILE = "provenance.json"
DEFAULT_PHASES = "1450x8x16x256,1400x16x16x256,160x16x8x512,70x16x4x1024"

Corpus = Annotated[Path, typer.Option(help="Folder with the corpus files.", file_okay=False)]
Cache = Annotated[Path, typer.Option(help="Folder for tokenised streams.", file_okay=False)]
TokenizerFolder = Annotated[Path, typer.Option("--tokenizer", help="Tokenizer folder.", file_okay=False)]
Out = Annotated[Path, typer.Option(help="Folder to write.", file_okay=False)]
Threads = Annotated[int, typer.Option(help="CPU threads.", min=1)]


def build_app() -> typer.Typer:
    """The command line."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, help="Recipes for the demo models.")
    app.command("tokenizer")(make_tokenizer)
    app.command("target")(make_target)
    app.command("draft")(make_draft)
    app.command("generate")(make_answers)
    app.command("head")(make_head)
    app.command("vocabulary")(make_vocabulary)
    app.command("bundle")(make_bundle)
    app.command("answer")(answer_prompts)
    app.command("measure")(measure_bundle)
    return app


def make_tokenizer(corpus: Corpus, out: Out, num_chars: int = 12_000_000, size: int = VOCABULARY_SIZE) -> None:
    """Train the tokenizer on a sample of the mix."""
    save_tokenizer(train_tokenizer(sample_texts(corpus, DEMO_MIX, num_chars), size), out)


def make_target(
    corpus: Corpus,
    cache: Cache,
    tokenizer_folder: TokenizerFolder,
    run: Annotated[Path, typer.Option(help="Folder for checkpoints; a run in it is resumed.", file_okay=False)],
    out: Out,
    phases: Annotated[str, typer.Option(help="STEPSxLAYERSxBATCHxCONTEXT, comma-separated.")] = DEFAULT_PHASES,
    optimizer: OptimizerName = "muon",
    matrix_rate: float = 5e-3,
    other_rate: float = 3e-3,
    decay_share: float = 0.42,
    warmup_steps: int = 100,
    late_from: Annotated[int, typer.Option(help="Draw in the mix's late weights from this step.")] = DEFAULT_LATE_FROM,
    exit_weight: Annotated[float, typer.Option(help="Weight of the loss at intermediate layers.")] = 0.1,
    start_from: Annotated[Path | None, typer.Option(help="Model folder to continue from.", file_okay=False)] = None,
    until: Annotated[int | None, typer.Option(help="Stop at this step.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 100,
    threads: Threads = 1,
) -> None:
    """Train or resume the target, then write its model folder with a provenance record."""
    torch.set_num_threads(threads)
    tokenizer, parsed = load_tokenizer(tokenizer_folder), _parse_phases(phases)
    recipe = TargetRecipe(
        parsed,
        shape=Shape(num_layers=parsed[-1].num_layers),
        optimizer=optimizer,
        matrix_rate=matrix_rate,
        other_rate=other_rate,
        decay_share=decay_share,
        warmup_steps=warmup_steps,
        late_from=late_from,
        exit_weight=exit_weight,
        parent_sha256=_weights_hash(start_from),
    )
    streams = build_streams(corpus, DEMO_MIX, tokenizer, cache)
    parent = load_model(start_from) if start_from else None
    trainer = TargetTrainer(recipe, streams, DEMO_MIX, special_ids(tokenizer), len(tokenizer), run, parent)
    trainer.resume()
    with ProgressReport("target", recipe.num_steps, trainer.step, run / "history.jsonl") as report:
        model = trainer.run(until, checkpoint_every, report)
    _save(model, tokenizer, trainer.describe(_held_out(model, corpus, cache, tokenizer)), out)


def make_draft(
    corpus: Corpus,
    cache: Cache,
    target: Annotated[Path, typer.Option(help="Target model folder.", file_okay=False)],
    out: Out,
    num_steps: int = 560,
    layers: Annotated[str, typer.Option(help="Target layers to start from, comma-separated.")] = "0,15",
    start_from: Annotated[Path | None, typer.Option(help="Draft to continue instead.", file_okay=False)] = None,
    batch: Annotated[int, typer.Option(help="Rows of a step.", min=1)] = 16,
    context: Annotated[int, typer.Option(help="Tokens of a row.", min=2)] = 256,
    generated_share: float = 0.5,
    num_pools: int = 6,
    pool_rows: int = 96,
    matrix_rate: float = 4e-3,
    other_rate: float = 2e-3,
    threads: Threads = 1,
) -> None:
    """Distil a draft from the target and write its model folder with a provenance record."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    tokenizer = load_tokenizer(target)
    recipe = DraftRecipe(num_steps, tuple(int(index) for index in layers.split(",")), batch, context)
    recipe = replace(recipe, generated_share=generated_share, num_pools=num_pools, pool_rows=pool_rows)
    recipe = replace(recipe, matrix_rate=matrix_rate, other_rate=other_rate, parent_sha256=_weights_hash(start_from))
    model = load_model(target)
    draft = load_model(start_from) if start_from else slice_draft(model, recipe.source_layers, special_ids(tokenizer))
    streams = build_streams(corpus, DEMO_MIX, tokenizer, cache)
    sampler = BatchSampler(streams, DEMO_MIX.late_shares, torch.Generator().manual_seed(recipe.seed + 1))
    with ProgressReport("draft", num_steps, history=out.with_suffix(".history.jsonl")) as report:
        distil(model, draft, sampler, sampled_continuations(model, recipe.seed), recipe, report)
    losses = _held_out(draft, corpus, cache, tokenizer)
    num_tokens = recipe.num_steps * recipe.batch * recipe.context
    record = describe_run(hash_streams(streams), recipe.as_dict(), losses, time.perf_counter() - started, num_tokens)
    _save(draft, tokenizer, record, out)


def make_bundle(
    out: Out,
    target: Annotated[Path | None, typer.Option(help="Target model folder.", file_okay=False)] = None,
    draft: Annotated[Path | None, typer.Option(help="Draft model folder.", file_okay=False)] = None,
    eagle: Annotated[Path | None, typer.Option(help="Folder of an EAGLE-3 head.", file_okay=False)] = None,
    eagle_general: Annotated[Path | None, typer.Option(help="Of one for general text.", file_okay=False)] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Token map.", dir_okay=False)] = None,
) -> None:
    """Write what is named into `out`, models and heads in bfloat16; what is not named stays as it is there.

    Then all of it is listed in a manifest and verified.
    """
    models, heads = {"target": target, "draft": draft}, {"eagle": eagle, "eagle_general": eagle_general}
    records = _kept(out, [name for name, folder in (models | heads).items() if folder])
    for name, folder in models.items():
        if folder:
            save_model(load_model(folder), load_tokenizer(folder), out / name, torch.bfloat16)
            records[name] = load_provenance(folder / PROVENANCE_FILE).as_dict()
    for name, folder in heads.items():
        if folder:
            bundle_head(folder, out, name)
            records[name] = head_provenance(out / name)
    if vocabulary:
        bundle_vocabulary(vocabulary, out)
    write_manifest(out, records)
    verify_bundle(out)


def _kept(out: Path, replaced: Collection[str]) -> dict[str, Any]:
    """Records of the models of a bundle that stay; their files must be those of its manifest."""
    kept = {name: record for name, record in bundled_provenance(out).items() if name not in replaced}
    for name in kept:
        check_manifest(out, within=out / name)
    return kept


def answer_prompts(
    model_folder: Annotated[Path, typer.Option("--model", help="Model folder.", file_okay=False)],
    prompts: Annotated[Path, typer.Option(help="JSON lines with `domain` and `prompt`.", dir_okay=False)],
    out: Annotated[Path, typer.Option(help="JSON lines to write: the answers.", dir_okay=False)],
    max_new_tokens: int = 128,
    threads: Threads = 1,
) -> None:
    """Answer prompts greedily in chat form and write the answers with their share of distinct 4-grams."""
    torch.set_num_threads(threads)
    tokenizer, model = load_tokenizer(model_folder), load_model(model_folder)
    ids = special_ids(tokenizer)
    records = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    chats = [chat_ids(tokenizer, record["prompt"]) for record in records]
    answers = greedy_continuations(model, chats, max_new_tokens, [ids.separator, ids.end], ids.pad)
    with out.open("w", encoding="utf-8") as file:
        for record, answer in zip(records, answers, strict=True):
            extra = {"answer": tokenizer.decode(answer), "tokens": len(answer), "distinct4": distinct_share([answer])}
            file.write(json.dumps(record | extra, ensure_ascii=False) + "\n")


def measure_bundle(
    corpus: Corpus,
    cache: Cache,
    bundle: Annotated[Path, typer.Option(help="Folder with `target`, `draft` and a manifest.", file_okay=False)],
    out: Annotated[Path, typer.Option(help="JSON file to write.", dir_okay=False)],
    per_domain: Annotated[int, typer.Option(help="Held-out prompts of each domain.", min=1)] = 30,
    per_task: Annotated[int, typer.Option(help="Held-out prompts of each mini-task.", min=1)] = 100,
    heads_only: Annotated[bool, typer.Option(help="Replace the heads of an earlier measurement in `out`.")] = False,
    threads: Threads = 1,
) -> None:
    """Measure the models and heads of a bundle on held-out data, and what a draft step costs beside a target step."""
    torch.set_num_threads(threads)
    verify_bundle(bundle)
    if heads_only:
        _measure_heads(corpus, cache, bundle, out)
        return
    tokenizer = load_tokenizer(bundle / "target")
    target, draft = load_model(bundle / "target"), load_model(bundle / "draft")
    streams = _held_out_streams(corpus, cache, tokenizer)
    depths = range(2, target.config.num_hidden_layers + 1, 2)
    report = {
        "schema": "evodraft.models/1",
        "machine": describe_machine(),
        "manifest_sha256": hash_file(bundle / MANIFEST_FILE),
        "target": measure_model(target, streams, tokenizer)
        | measure_outputs(target, tokenizer, corpus, DEMO_MIX, per_domain, per_task)
        | {"exits": measure_exits(target, streams, list(depths))},
        "draft": measure_model(draft, streams, tokenizer),
        "fit": measure_fit(target, draft, streams),
        "cost": {str(dtype): measure_cost(target, draft, dtype) for dtype in COST_DTYPES},
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _measure_heads(corpus, cache, bundle, out)


def _measure_heads(corpus: Path, cache: Path, bundle: Path, out: Path) -> None:
    """Adds the bundle's heads to the measurement in `out`."""
    target = load_model(bundle / "target")
    streams = _held_out_streams(corpus, cache, load_tokenizer(bundle / "target"))
    heads = [bundle / name for name in HEADS if (bundle / name).is_dir()]
    report = json.loads(out.read_text(encoding="utf-8")) | {
        "heads_manifest_sha256": hash_file(bundle / MANIFEST_FILE),
        "heads": {folder.name: measure_head(target, folder, streams) for folder in heads},
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _parse_phases(text: str) -> tuple[Phase, ...]:
    try:
        numbers = [[int(number) for number in phase.split("x")] for phase in text.split(",")]
        return tuple(Phase(*phase) for phase in numbers)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"phases {text!r} are not STEPSxLAYERSxBATCHxCONTEXT, comma-separated") from error


def _weights_hash(folder: Path | None) -> str | None:
    return hash_file(folder / WEIGHTS_FILE) if folder else None


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, record: Provenance, folder: Path) -> None:
    save_model(model, tokenizer, folder, torch.float32)
    save_provenance(record, folder / PROVENANCE_FILE)


def _held_out(model: LlamaForCausalLM, corpus: Path, cache: Path, tokenizer: PreTrainedTokenizerFast) -> HeldOut:
    streams = _held_out_streams(corpus, cache, tokenizer)
    by_domain = domain_losses(stream_losses(model, streams, EVALUATION_CONTEXT))
    by_position = position_losses(model, streams)
    return HeldOut(
        {domain: round(loss.nats, 4) for domain, loss in by_domain.items()},
        {span: round(nats, 4) for span, nats in by_position.items()},
    )


def _held_out_streams(corpus: Path, cache: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, TokenArray]:
    streams = build_streams(corpus, DEMO_MIX, tokenizer, cache, "valid")
    return {slug: stream for slug, stream in streams.items() if slug in DEMO_MIX.measured}


if __name__ == "__main__":
    build_app()()
