"""transformers' own `generate` in this process: as a reference, and as a contestant. Does not know suites.

As a peer it runs in an environment of its own (`peers/transformers.py`); here it runs on the very model that methods
run on, which also serves models too large to be loaded twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from evodraft.bench.contestants import Answer, Ask, Memory, Outcome, Profile
from evodraft.bench.peers.workers.worker import decode_seconds
from evodraft.errors import BenchError


def generated(model: Any, ask: Ask, streamer: Any = None) -> tuple[int, ...]:
    """Ids that `model.generate` appends greedily, the stop token included."""
    ids = torch.tensor([ask.token_ids], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=ask.repetition_penalty,
        max_new_tokens=ask.max_new_tokens,
        eos_token_id=list(ask.stop_token_ids) or None,
        pad_token_id=ask.stop_token_ids[0] if ask.stop_token_ids else 0,
        streamer=streamer,
    )
    return tuple(output[0, ids.shape[1] :].tolist())


class Generate:
    """Plain greedy decoding by `model.generate`, with its defaults, one prompt at a time."""

    def __init__(self, model: Any, name: str = "generate", synthetic: str | None = None) -> None:
        self._model = model
        versions = {"transformers": transformers.__version__}
        self.profile = Profile(name, "method", versions=versions, synthetic=synthetic, max_batch=1)

    def reset(self) -> None:
        """Nothing is kept."""

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        """Answers one greedy prompt; raises BenchError for another batch."""
        if len(asks) != 1 or asks[0].temperature > 0:
            raise BenchError(f"{self.profile.name} answers one prompt at temperature 0 here; ask so, or take the peer")
        times = _Times()
        started = time.perf_counter()
        token_ids = generated(self._model, asks[0], times)
        request_s = time.perf_counter() - started
        decode_s = decode_seconds(request_s, times.seconds[1] - started, 1, len(token_ids))
        return Outcome((Answer(token_ids),), request_s, decode_s)

    def memory(self) -> Memory:
        """Its weights are those of the methods beside it."""
        return Memory()

    def close(self) -> None:
        """Nothing is open."""


class _Times:
    """A streamer as `generate` wants it: notes when the prompt and every token came."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def put(self, token_ids: torch.Tensor) -> None:  # [batch, prompt], then [batch]
        self.seconds.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to do."""
