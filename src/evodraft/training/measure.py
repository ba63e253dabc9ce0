"""What a bundle is worth measuring on: losses, mini-tasks, repetition, exits, and how draft and heads fit the target.

One report for docs/models.md. Knows held-out data and models; does not know how they were trained.
"""

from __future__ import annotations

import copy
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from evodraft.drafters.eagle.files import load_head
from evodraft.runtime.hf import HfDecoder
from evodraft.training.bundle import head_provenance
from evodraft.training.data import held_out_prompts
from evodraft.training.evaluate import (
    distinct_share,
    domain_losses,
    exit_losses,
    position_losses,
    stream_losses,
    windows,
)
from evodraft.training.generation import greedy_continuations
from evodraft.training.head_score import score_head
from evodraft.training.llama import hidden_states
from evodraft.training.objective import CHUNK_ROWS
from evodraft.training.tasks import TASKS, accuracy, held_out
from evodraft.training.tokenizer import special_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from evodraft.training.data import TokenArray
    from evodraft.training.mix import Mix

EVALUATION_CONTEXT = 512
MAX_NEW_TOKENS = 128
CACHED_TOKENS = 256
HEAD_CONTEXT = 256
NUM_HEAD_DEPTHS = 5
MAX_HEAD_ROWS = 32  # of each domain
NUM_TIMED_STEPS = 200


def measure_model(
    model: LlamaForCausalLM, streams: Mapping[str, TokenArray], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """Losses in nats per token by domain, by source and by position, of both targets and drafts."""
    by_source = stream_losses(model, streams, EVALUATION_CONTEXT)
    by_domain = domain_losses(by_source)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "losses": {name: {"nats": loss.nats, "num_tokens": loss.num_tokens} for name, loss in by_domain.items()},
        "source_losses": {slug: loss.nats for slug, loss in by_source.items()},
        "position_losses": position_losses(model, streams),
    }


def measure_outputs(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Path, mix: Mix, per_domain: int, per_task: int
) -> dict[str, Any]:
    """Greedy outputs: mean share of distinct 4-grams by domain over held-out prompts, and right answers by task."""
    prompts = held_out_prompts(corpus, mix, tokenizer, per_domain)
    repetition = {}
    for domain, rows in prompts.items():
        answers = _greedy(model, tokenizer, rows, MAX_NEW_TOKENS)
        repetition[domain] = {"distinct_4": distinct_share(answers), "num_prompts": len(answers)}
    return {"repetition": repetition, "tasks": {task: _task(model, tokenizer, task, per_task) for task in TASKS}}


def measure_exits(
    model: LlamaForCausalLM, streams: Mapping[str, TokenArray], depths: Sequence[int]
) -> dict[str, float]:
    """Mean nats per token of stopping after each of `depths` layers."""
    losses = exit_losses(model, streams, depths, EVALUATION_CONTEXT)
    return {str(depth): nats for depth, nats in losses.items()}


@torch.no_grad()
def measure_fit(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, streams: Mapping[str, TokenArray]
) -> dict[str, dict[str, float]]:
    """By domain: KL(p || q) in nats and the overlap sum(min(p, q)), means over held-out positions.

    The overlap is the probability that the first drafted token is accepted at temperature 1.
    """
    sums: dict[str, torch.Tensor] = {}
    for slug, stream in streams.items():
        context = min(EVALUATION_CONTEXT, len(stream) - 1)
        for inputs, _ in windows(torch.from_numpy(stream.astype("int64")), context):
            pairs = zip(
                hidden_states(target, inputs).flatten(0, 1).split(CHUNK_ROWS),
                hidden_states(draft, inputs).flatten(0, 1).split(CHUNK_ROWS),
                strict=True,
            )
            domain = slug.split(".")[0]
            for target_states, draft_states in pairs:
                log_p = (target_states @ target.lm_head.weight.t()).log_softmax(-1)  # [chunk, vocabulary]
                log_q = (draft_states @ draft.lm_head.weight.t()).log_softmax(-1)
                divergence = (log_p.exp() * (log_p - log_q)).sum()
                overlap = torch.minimum(log_p, log_q).exp().sum()
                found = torch.stack((divergence, overlap, torch.tensor(float(len(log_p)))))
                sums[domain] = sums.get(domain, torch.zeros(3)) + found
    return {name: {"kl": float(kl / n), "overlap": float(overlap / n)} for name, (kl, overlap, n) in sums.items()}


def measure_head(target: LlamaForCausalLM, folder: Path, streams: Mapping[str, TokenArray]) -> dict[str, Any]:
    """Of the head in `folder`: its size, and scores by domain and depth, the first depth first.

    On held-out text, and on answers of the target as the head's training recorded them: a head drafts the latter.
    """
    head = load_head(folder, num_target_layers=target.config.num_hidden_layers, dtype=torch.float32)
    by_domain: dict[str, list[torch.Tensor]] = {}
    for slug, stream in streams.items():
        by_domain.setdefault(slug.split(".")[0], []).append(torch.from_numpy(stream.astype("int64")))
    rows = {domain: _spread_rows(torch.cat(texts)) for domain, texts in by_domain.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "text": {domain: score_head(target, head, found, NUM_HEAD_DEPTHS)._asdict() for domain, found in rows.items()},
        "answers": head_provenance(folder).get("held_out", {}),
    }


def _spread_rows(ids: torch.Tensor) -> torch.Tensor:  # [tokens] -> [rows, context]
    """At most `MAX_HEAD_ROWS`, spread over all of the text."""
    context = min(HEAD_CONTEXT, len(ids))
    rows = ids[: len(ids) // context * context].view(-1, context)
    return rows[:: -(-len(rows) // MAX_HEAD_ROWS)]


def measure_cost(target: LlamaForCausalLM, draft: LlamaForCausalLM, dtype: torch.dtype) -> dict[str, float]:
    """Median milliseconds of decoding one token with each, in our runtime, in turns, and their ratio.

    On copies in `dtype`, with `CACHED_TOKENS` tokens in the cache, batch 1, the threads torch is set to.
    """
    decoders = [_prefilled(model, dtype) for model in (target, draft)]
    times: list[list[float]] = [[], []]
    for step in range(NUM_TIMED_STEPS):
        for decoder, found in zip(decoders, times, strict=True):
            started = time.perf_counter()
            decoder.forward(torch.tensor([[step % 100 + 10]]), [1], [0], want_logits=True)
            found.append(time.perf_counter() - started)
            decoder.crop(0, CACHED_TOKENS)
    target_ms, draft_ms = (1e3 * median(found[NUM_TIMED_STEPS // 10 :]) for found in times)
    return {"target_ms": target_ms, "draft_ms": draft_ms, "ratio": draft_ms / target_ms}


def _prefilled(model: LlamaForCausalLM, dtype: torch.dtype) -> HfDecoder:
    converted: Any = copy.deepcopy(model)
    decoder = HfDecoder(converted.to(dtype), 1, 2 * CACHED_TOKENS)
    decoder.forward(torch.arange(CACHED_TOKENS)[None] + 10, [CACHED_TOKENS], [0], want_logits=False)
    return decoder


def _task(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str, count: int) -> dict[str, float]:
    asked = held_out(task, count)
    rows = [chat_ids(tokenizer, example.prompt) for example in asked]
    answers = _greedy(model, tokenizer, rows, max_new_tokens=24)
    texts = [str(tokenizer.decode(ids)) for ids in answers]
    return {"accuracy": accuracy(asked, texts), "num_prompts": len(asked)}


def _greedy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list[list[int]], max_new_tokens: int
) -> list[list[int]]:
    ids = special_ids(tokenizer)
    return greedy_continuations(model, rows, max_new_tokens, [ids.separator, ids.end], ids.pad)


def chat_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """A user's message in the chat format, ready for the answer."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    encoded: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return encoded
