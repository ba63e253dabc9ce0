"""A llama-server process and requests to it. Does not know what is asked, nor any benchmark. Standard library only."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

_HOST: Final = "127.0.0.1"
_POLL_S: Final = 0.05
_CLOSE_LIMIT_S: Final = 5.0
_TIE: Final = """
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGKILL = 1, 9
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
if os.getppid() != int(sys.argv[1]):  # gone before the line above
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
_FOREIGN_OPTIONS: Final = ("LLAMA_", "GGML_")  # variables that would change the server's options
_COUNTER: Final = re.compile(r'^llamacpp:(\w+?)(?:\{position="(\d+)"\})? (\d+)$', re.MULTILINE)


class Counters(NamedTuple):
    """What llama-server has counted since it started."""

    num_decodes: int  # passes of the target, reading prompts included
    num_drafts: int
    accepted_per_position: tuple[int, ...]

    def since(self, before: Counters) -> Counters:
        """What came on top of `before`."""
        earlier = before.accepted_per_position + (0,) * len(self.accepted_per_position)
        return Counters(
            self.num_decodes - before.num_decodes,
            self.num_drafts - before.num_drafts,
            tuple(now - then for now, then in zip(self.accepted_per_position, earlier, strict=False)),
        )


class Server:
    """A llama-server process that ends with this one, and requests to it."""

    def __init__(self, program: Path, arguments: Sequence[str]) -> None:
        self._port = _free_port()
        self._process = subprocess.Popen(
            [*_tied(), str(program), *arguments, "--host", _HOST, "--port", str(self._port)],
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_OPTIONS)},
        )
        self._wait_until_loaded()

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of the reply; GET without a body. Raises OSError if the server is gone."""
        connection = http.client.HTTPConnection(_HOST, self._port)  # knows no proxies
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def speculates(self) -> bool:
        """Whether it drafts; it serves without, and only says so in its log, if it cannot use the draft."""
        return all(slot["speculative"] for slot in json.loads(self.request("/slots")[1]))

    def counters(self) -> Counters | None:
        """What it has counted; None if it does not say so exactly."""
        return counters(self.request("/metrics")[1].decode())

    def resident_bytes(self) -> int:
        """Peak memory of the server, from /proc."""
        return peak_bytes(Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8"))

    def close(self) -> None:
        """Ends the process; closing twice is fine."""
        self._process.terminate()
        try:
            self._process.wait(_CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_loaded(self) -> None:
        while self._process.poll() is None:
            try:
                if self.request("/health")[0] == http.HTTPStatus.OK:
                    return
            except OSError:  # it does not listen yet
                pass
            time.sleep(_POLL_S)
        raise RuntimeError(f"llama-server ended with exit code {self._process.returncode} while it loaded the model")


def counters(metrics: str) -> Counters | None:
    """What the text of /metrics says; None once it rounds its figures: a million is written as 1e+06."""
    values: dict[str, dict[str, int]] = {}
    for name, position, value in _COUNTER.findall(metrics):
        values.setdefault(name, {})[position] = int(value)
    if not {"n_decode_total", "spec_decode_num_drafts_total"} <= values.keys():
        return None
    by_position = values.get("spec_decode_num_accepted_tokens_per_pos_total", {})
    return Counters(
        num_decodes=values["n_decode_total"][""],
        num_drafts=values["spec_decode_num_drafts_total"][""],
        accepted_per_position=tuple(by_position.values()),
    )


def version_of(program: Path) -> str:
    """What `llama-server --version` says of itself."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"^version: (.+)$", told.stdout + told.stderr, re.MULTILINE)
    return found[1] if found else "unknown"


def peak_bytes(status: str) -> int:
    """Peak resident memory in the text of /proc/PID/status.

    >>> peak_bytes("VmPeak:     200 kB\\nVmHWM:      100 kB\\n")
    102400
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("the peak memory of llama-server is not in /proc")
    return int(found[1]) * 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _tied() -> list[str]:
    """What starts a program that is killed as soon as this process is gone; nothing where there is no prctl."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid())] if sys.platform == "linux" else []
