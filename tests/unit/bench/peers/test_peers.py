"""The table of peers, and finding one by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from evodraft.bench.peers import PEERS, find_peer
from evodraft.bench.peers.base import Peer
from evodraft.errors import UnknownOptionError

PROJECT = Path(__file__).parents[4]
WORKERS = PROJECT / "src" / "evodraft" / "bench" / "peers" / "workers"


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_every_peer_has_pins_a_worker_and_modes(peer: Peer) -> None:
    assert PEERS[peer.name] is peer
    assert (WORKERS / peer.worker).is_file()
    assert peer.about
    assert peer.modes
    for mode in peer.modes.values():
        assert mode.about
        assert mode.max_batch >= 1
    pins = (PROJECT / "benchmarks" / "peers" / peer.requirements).read_text(encoding="utf-8").splitlines()
    for line in filter(None, (line.partition("#")[0].strip() for line in pins)):
        assert "==" in line, f"{line} is not pinned"


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_every_mode_is_found(peer: Peer) -> None:
    for name, mode in peer.modes.items():
        found = find_peer(f"{peer.name}/{name}")
        assert found[0] is peer
        assert found[1] is mode


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transfomers/plain", "unknown peer 'transfomers'; did you mean 'transformers'?"),
        ("transformers/assistant-heuristics", "did you mean 'assistant-heuristic'?"),
        ("transformers", "unknown mode of peer transformers ''. Known: "),
    ],
)
def test_wrong_names_are_told_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UnknownOptionError) as caught:
        find_peer(spec)
    assert message in str(caught.value)
