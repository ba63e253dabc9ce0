"""transformers as a peer: plain generation, and the ways of assisted generation for one tokenizer.

The worker writes `draft` options into the draft's `generation_config`, which is the only place where they are read, and
passes `generate` options to `generate`. What an option does is transformers' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evodraft.bench.peers.base import Mode, Peer

_MODES: Final[Mapping[str, Mode]] = {
    "plain": Mode(about="generate() with its defaults: eager, dynamic cache", max_batch=8),
    "static-compile": Mode(
        about="static cache and torch.compile of the decoding step, by the switch that asks for it on a CPU too",
        options={"generate": {"cache_implementation": "static"}, "is_compiled": True},
    ),
    "assistant-constant": Mode(
        about="a draft model that always guesses 5 tokens",
        needs_draft=True,
        options={
            "draft": {
                "num_assistant_tokens": 5,
                "num_assistant_tokens_schedule": "constant",
                "assistant_confidence_threshold": 0.0,
            }
        },
    ),
    "assistant-heuristic": Mode(
        about="a draft model; 5 tokens at first, 2 more after a full match, else 1 fewer, carried on from call to call",
        needs_draft=True,
        options={
            "draft": {
                "num_assistant_tokens": 5,
                "num_assistant_tokens_schedule": "heuristic",
                "assistant_confidence_threshold": 0.0,
            }
        },
    ),
    "assistant-confidence": Mode(
        about="a draft model with the defaults: up to 20 tokens, while each has a probability of at least 0.4",
        needs_draft=True,
        options={
            "draft": {
                "num_assistant_tokens": 20,
                "num_assistant_tokens_schedule": "constant",
                "assistant_confidence_threshold": 0.4,
            }
        },
    ),
    "prompt-lookup": Mode(
        about="up to 10 tokens that followed the last 2 (or 1) earlier in the text",
        options={"generate": {"prompt_lookup_num_tokens": 10}},
    ),
    "early-exit": Mode(
        about="the first quarter of the target's layers as the draft, with the default knobs",
        options={"early_exit_share": 0.25},
    ),
}

TRANSFORMERS: Final = Peer(
    name="transformers",
    about="Hugging Face transformers, the library whose models evodraft runs",
    requirements="transformers.txt",
    worker="transformers_worker.py",
    modes=_MODES,
)
