"""Does speculative decoding in bfloat16 say what plain decoding says, token by token (X13)? Many tokens, every width.

    python benchmarks/invariance.py --json benchmarks/results/invariance.json [--tokens 100000]

The demo decodes greedily with drafts of every length, so that passes are 1 to 16 tokens wide, in batches of 1 to 8.
Every text is a new one and is decoded plainly as well, alone and one token a pass. Behind a first difference two texts
are two texts, so nothing behind it is compared. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from evodraft import LLM
from evodraft.demo import read_prompts
from evodraft.machine import processor_name, software_versions, source_commit
from evodraft.runtime.choose import NUMERICS, runtime_of

SCHEMA: Final = "evodraft.invariance/1"
WIDTHS: Final = range(1, 17)
BATCHES: Final = range(1, 9)
NUM_DRAWN: Final = 16  # tokens drawn behind a prompt, so that no two texts are alike


@dataclass(frozen=True)
class Cell:
    """What passes of one width in batches of one size said."""

    width: int  # of the widest passes: the last token and its draft
    batch: int
    num_texts: int = 0
    num_tokens: int = 0  # compared
    num_differing: int = 0  # first differences, one of a text at most
    num_passes: int = 0
    num_draft_tokens: int = 0
    num_accepted: int = 0


@dataclass(frozen=True)
class Text:
    """A prompt, and what plain decoding says behind it."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


def texts(plain: LLM, num_tokens: int) -> Iterator[Text]:
    """New ones without end: prompts of the demo, each time with other tokens drawn behind them."""
    prompts = read_prompts(per_domain=100)
    for seed in itertools.count():
        drawn = plain.generate(
            prompts[seed % len(prompts)].text, max_new_tokens=NUM_DRAWN, temperature=1.0, seed=seed, ignore_eos=True
        )
        prompt = (*drawn.prompt_token_ids, *drawn.token_ids)
        (out,) = plain.generate(prompt_token_ids=[prompt], max_new_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        yield Text(prompt, out.raise_for_error().token_ids)


def compared(llm: LLM, cell: Cell, batch: Sequence[Text], num_tokens: int) -> Cell:
    """The cell with what one batch said."""
    prompts = [text.prompt_token_ids for text in batch]
    outs = llm.generate(prompt_token_ids=prompts, max_new_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    pairs = zip(outs, batch, strict=True)
    found = [first_difference(out.raise_for_error().token_ids, text.token_ids) for out, text in pairs]
    return Cell(
        cell.width,
        cell.batch,
        cell.num_texts + len(batch),
        cell.num_tokens + sum(num_tokens if at is None else at + 1 for at in found),
        cell.num_differing + sum(at is not None for at in found),
        cell.num_passes + sum(out.stats.num_target_passes for out in outs),
        cell.num_draft_tokens + sum(out.stats.num_draft_tokens for out in outs),
        cell.num_accepted + sum(out.stats.num_accepted_tokens for out in outs),
    )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Where two texts part; None if they are the same."""
    if one == other:
        return None
    pairs = zip(one, other, strict=False)  # one may be the other's beginning
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def open_llm(width: int, **options: Any) -> LLM:
    """The demo with drafts that make passes as wide as that."""
    drafter, controller = (None, "auto") if width == 1 else ("model", f"fixed:{width - 1}")
    return LLM.from_pretrained("demo", dtype="bfloat16", drafter=drafter, controller=controller, **options)


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """All cells, as many tokens each."""
    options = {"runtime": settings.runtime, "numerics": settings.numerics}
    started, cells = time.perf_counter(), []
    per_cell = -(-settings.tokens // (len(WIDTHS) * len(BATCHES)))
    with open_llm(1, max_batch=1, **options) as plain:
        source = texts(plain, settings.length)
        for width in WIDTHS:
            with open_llm(width, max_batch=max(BATCHES), **options) as llm:
                for batch in BATCHES:
                    cell = Cell(width, batch)
                    while cell.num_tokens < per_cell:
                        cell = compared(llm, cell, list(itertools.islice(source, batch)), settings.length)
                    cells.append(cell)
            report_progress(cells, time.perf_counter() - started)
        return document(plain, cells, settings) | {"seconds": time.perf_counter() - started}


def report_progress(cells: Sequence[Cell], seconds: float) -> None:
    num_tokens, num_differing = (sum(getattr(cell, name) for cell in cells) for name in ("num_tokens", "num_differing"))
    print(f"width {cells[-1].width:2}: {num_tokens} tokens, {num_differing} differ, {seconds:.0f} s", flush=True)


def document(plain: LLM, cells: Sequence[Cell], settings: argparse.Namespace) -> dict[str, Any]:
    """What was found, and where."""
    runtime = runtime_of(plain.engine.target.decoder)
    assert runtime is not None
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": {"processor": processor_name(), "threads": torch.get_num_threads()},
        "versions": software_versions(),
        "model": "demo",
        "dtype": str(runtime.facts.dtype).removeprefix("torch."),
        "runtime": runtime.report.name,
        "numerics": runtime.report.numerics._asdict(),
        "tokens_per_text": settings.length,
        "num_tokens": sum(cell.num_tokens for cell in cells),
        "num_differing": sum(cell.num_differing for cell in cells),
        "cells": [asdict(cell) for cell in cells],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, writes, and says whether all was the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000, help="to compare, over all widths and batches")
    parser.add_argument("--length", type=int, default=96, help="tokens of a text")
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--numerics", default="invariant", choices=NUMERICS)
    settings = parser.parse_args(arguments)
    result = run(settings)
    settings.json.parent.mkdir(parents=True, exist_ok=True)
    settings.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['num_tokens']} tokens compared, {result['num_differing']} differ")
    return int(result["num_differing"] > 0)


if __name__ == "__main__":
    sys.exit(main())
