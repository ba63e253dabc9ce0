"""OpenVINO GenAI as a peer: continuous batching with paged attention in every mode, unquantised weights and caches.

Its worker says which settings differ from the defaults, and what it refuses: `workers/openvino_worker.py`.
"""

from __future__ import annotations

from typing import Final

from evodraft.bench.peers.base import Mode, Peer
from evodraft.bench.peers.removal import removing

_MAX_BATCH: Final = 8

OPENVINO: Final = Peer(
    name="openvino",
    about="OpenVINO GenAI, Intel's engine for its processors; weights converted by optimum-intel, unquantised",
    requirements="openvino.txt",
    worker="openvino_worker.py",
    modes={
        "plain": Mode(about="one token a pass", max_batch=_MAX_BATCH),
        "draft": Mode(
            about="a draft model that guesses up to 5 tokens; temperature 0 alone",
            needs_draft=True,
            options={"generation": {"num_assistant_tokens": 5}},
            max_batch=_MAX_BATCH,
        ),
        "prompt-lookup": Mode(
            about="up to 5 tokens that followed the last 3 (or fewer) earlier in the text",
            options={
                "pipeline": {"prompt_lookup": True},
                "generation": {"num_assistant_tokens": 5, "max_ngram_size": 3},
            },
            max_batch=_MAX_BATCH,
        ),
    },
    finish=removing("openvino", "torchvision"),
)
