"""The process of llama-server: starting, asking, ending, and ending with its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evodraft.bench.peers.workers import llama_cpp_server
from evodraft.bench.peers.workers.llama_cpp_server import Counters, Server, counters, peak_bytes, version_of

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")

METRICS = """# HELP llamacpp:n_decode_total Total number of llama_decode() calls
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 37
llamacpp:spec_decode_num_drafts_total 34
llamacpp:n_busy_slots_per_decode 1.5
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 13
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 2
"""


@pytest.fixture
def server(program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("LLAMA_ARG_THREADS", "64")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = Server(program, ["--model", "model.gguf"])
    yield server
    server.close()


def test_a_request_reaches_the_server_past_proxies_and_foreign_options(server: Server) -> None:
    status, body = server.request("/completion", {"prompt": [5, 6], "n_predict": 3, "seed": 1})
    reply = json.loads(body)
    assert status == 200
    assert reply["asked"]["prompt"] == [5, 6]
    assert reply["leaked"] == []
    assert reply["options"][:2] == ["--model", "model.gguf"]


def test_it_is_loaded_once_health_says_so(server: Server) -> None:
    assert server.request("/health")[0] == 200, "the stand-in says 503 the first time"


def test_closing_ends_the_process_and_may_be_repeated(server: Server) -> None:
    server.close()
    server.close()
    with pytest.raises(OSError, match="refused"):
        server.request("/health")


def test_a_server_that_does_not_listen_to_signals_is_killed(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_server, "_CLOSE_LIMIT_S", 0.05)
    server = Server(program, ["--model", "stubborn.gguf"])
    server.close()
    assert server._process.returncode == -9


def test_a_server_that_ends_while_loading_is_reported(program: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 7 while it loaded"):
        Server(program, ["--model", "broken.gguf"])


@on_linux
def test_the_server_dies_with_the_process_that_started_it(program: Path) -> None:
    script = (
        "import os, sys, pathlib, llama_cpp_server as s\n"
        "server = s.Server(pathlib.Path(sys.argv[1]), [])\n"
        "print(server._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", script, str(program)],
        cwd=Path(llama_cpp_server.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert parent.returncode == -9, parent.stderr
    pid = int(parent.stdout)
    for _ in range(200):
        if not is_running(pid):
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the server outlived its parent")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@on_linux
def test_peak_memory_is_that_of_the_server(server: Server) -> None:
    assert 1 << 20 < server.resident_bytes() < 1 << 30


def test_without_a_peak_there_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not in /proc"):
        peak_bytes("VmPeak: 100 kB\n")


def test_the_version_is_what_the_program_prints(program: Path) -> None:
    assert version_of(program) == "0.5.0-dev (build 0, commit fake)"


def test_counters_are_read_from_metrics() -> None:
    assert counters(METRICS) == Counters(37, 34, (13, 2))
    assert counters("llamacpp:n_decode_total 0\nllamacpp:spec_decode_num_drafts_total 0\n") == Counters(0, 0, ())


def test_rounded_counters_are_not_taken_for_exact_ones() -> None:
    assert counters(METRICS.replace(" 37", " 1.23457e+06")) is None


def test_counters_since() -> None:
    assert Counters(37, 34, (13, 2)).since(Counters(30, 28, (12, 2))) == Counters(7, 6, (1, 0))
    assert Counters(7, 6, (1, 0)).since(Counters(0, 0, ())) == Counters(7, 6, (1, 0))
