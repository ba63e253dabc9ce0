"""Peers: other engines that a user would pick instead, each in a virtual environment and a process of its own.

A new peer is one file with a `Peer`, one worker, one file of pins and one line in this table: docs/benchmark_peers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evodraft.bench.peers.base import Mode, Peer
from evodraft.bench.peers.llama_cpp import LLAMA_CPP
from evodraft.bench.peers.openvino import OPENVINO
from evodraft.bench.peers.transformers import TRANSFORMERS
from evodraft.bench.peers.vllm import VLLM
from evodraft.errors import UnknownOptionError

PEERS: Final[Mapping[str, Peer]] = {peer.name: peer for peer in (TRANSFORMERS, LLAMA_CPP, VLLM, OPENVINO)}


def find_peer(spec: str) -> tuple[Peer, Mode]:
    """The peer and the mode that NAME/MODE stands for; raises UnknownOptionError naming the nearest one.

    >>> peer, mode = find_peer("transformers/prompt-lookup")
    >>> peer.name, mode.needs_draft
    ('transformers', False)
    """
    name, _, mode = spec.partition("/")
    if name not in PEERS:
        raise UnknownOptionError("peer", name, PEERS)
    modes = PEERS[name].modes
    if mode not in modes:
        raise UnknownOptionError(f"mode of peer {name}", mode, modes)
    return PEERS[name], modes[mode]
