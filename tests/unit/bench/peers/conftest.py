"""A peer whose environment is this Python and whose worker is a script that a test writes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evodraft.bench.peers import install
from evodraft.bench.peers.base import Mode, Peer

WORKERS = Path(install.__file__).parent / "workers"

# Uses worker.py as real workers do. What it is told to do stands in the first token id of a prompt.
FAKE_WORKER = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(WORKERS)!r})
import worker

class Runner:
    label = "fake"

    def __init__(self, request):
        self.request, self.num_resets = request, 0
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "PYTHONPATH", "PATH")
        self.versions = {{name: os.environ.get(name, "") for name in names}}
        print("noise on standard output")
        os.write(1, b"noise from below Python\\n")
        subprocess.run([sys.executable, "-c", "print('noise of a child')"])

    def generate(self, asks):
        match asks[0]["token_ids"][0]:
            case 1: raise ValueError("this batch cannot be\\nsecond line")
            case 2: print("last words", flush=True); os._exit(3)
            case 3: os.kill(os.getpid(), 9)
            case 4: print("hanging", flush=True); time.sleep(600)
            case 5: return {{"request_s": 1.0}}
            case 6: return {{"request_s": 1.0, "decode_s": None, "answers": [
                {{"token_ids": [], "error": "too long"}} for ask in asks]}}
        counts = {{"num_draft_tokens": 4, "num_accepted_tokens": 2, "num_target_passes": 3, "num_rounds": 2,
                   "accepted_per_position": [2]}} if asks[0]["temperature"] else {{"num_draft_tokens": None}}
        tokens = [self.num_resets, self.request["max_batch"], *asks[0]["stop_token_ids"], asks[0]["seed"]]
        return {{"request_s": 0.5, "decode_s": 0.25, "answers": [
            {{"token_ids": tokens, "error": None, **counts}} for ask in asks]}}

    def reset(self): self.num_resets += 1
    def resident_bytes(self): return worker.peak_bytes()
    def close(self): pass

def load(request):
    if request["target"] == "missing":
        raise FileNotFoundError("no such model")
    return Runner(request)

worker.serve(load)
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of workers that failed are kept; here they go with the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of processes that are started
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def fake_peer(tmp_path: Path) -> Callable[..., Peer]:
    """Makes an installed peer in `tmp_path`; its worker runs the given source."""

    def make(source: str = FAKE_WORKER) -> Peer:
        script = tmp_path / "fake_worker.py"
        script.write_text(source, encoding="utf-8")
        modes = {
            "plain": Mode(about="", max_batch=2, options={"speed": 1}),
            "draft": Mode(about="", needs_draft=True, is_exact=False),
        }
        peer = Peer("fake", "a script", requirements="fake.txt", worker=str(script), modes=modes)
        (tmp_path / "fake.txt").write_text("# nothing\n", encoding="utf-8")
        python = install.python_of(peer, tmp_path)
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        stamp = python.parents[1] / ".evodraft-installed"
        stamp.write_text(hashlib.sha256(b"# nothing\n").hexdigest(), encoding="utf-8")
        return peer

    return make
