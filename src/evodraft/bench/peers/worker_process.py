"""The process of a worker: JSON lines in and out, a limit of time, an end without orphans. Knows no benchmark."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from evodraft.errors import BenchError

_CLOSE_LIMIT_S: Final = 10.0
_NUM_LOG_LINES: Final = 12
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_OF_THIS_PYTHON: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # would mix this environment into the peer's


class WorkerProcess:
    """Runs `script` under `python`; `name` is what errors call it.

    It leads a process group of its own, which is ended as a whole: by `close`, after any failure, when this object is
    collected, and when the interpreter exits. If the interpreter is killed, the worker finds its input closed and ends.
    """

    def __init__(self, name: str, python: Path, script: Path, threads: int, reply_limit_s: float) -> None:
        self._name, self._reply_limit_s = name, reply_limit_s
        self._failure = ""  # why it is gone
        self._unread = b""
        descriptor, path = tempfile.mkstemp(prefix=f"evodraft-{name.replace('/', '-')}-", suffix=".log")
        self._log = Path(path)
        try:
            self._process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=descriptor,
                env=_environment(python, threads),
                start_new_session=True,
            )
        except OSError as error:
            self._log.unlink()
            raise BenchError(f"peer {name}: {python} does not start: {error}; install the peer again") from error
        finally:
            os.close(descriptor)
        self._end = weakref.finalize(self, _end, self._process, self._log)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply, which may be {"error": ...}; raises BenchError if there is none."""
        if not self._end.alive:
            raise BenchError(f"peer {self._name} is closed{self._failure}")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.fail(f"the worker ended with {self._exit()}")
        line = self._read_line(request["op"])
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            self.fail(f"the worker replied {line[:80]!r}, which is no JSON object")
        return reply

    def demand(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """As `ask`, for requests that must not fail."""
        reply = self.ask(request)
        if "error" in reply:
            self.fail(f"{request['op']}: {reply['error']}")
        return reply

    def fail(self, reason: str) -> NoReturn:
        """Ends the process, keeps its log, and raises BenchError with the reason and the log's last lines."""
        self._failure = f" since it failed: {reason}"
        self._end.detach()
        _end(self._process)
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_NUM_LOG_LINES:]
        shown = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        raise BenchError(f"peer {self._name}: {reason}\nlast lines of {self._log}:\n{shown}")

    def close(self) -> None:
        """Asks it to end, then sees to it; closing twice is fine."""
        if not self._end.alive:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.write(b'{"op": "close"}\n')
            self._process.stdin.close()
            self._process.wait(_CLOSE_LIMIT_S)
        self._end()

    def _read_line(self, operation: str) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline_s = time.monotonic() + self._reply_limit_s
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                self.fail(
                    f"no reply to '{operation}' within the limit of {self._reply_limit_s:g} s; the worker was ended"
                )
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                self.fail(f"the worker ended with {self._exit()} during '{operation}'")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _exit(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_LIMIT_S)
        code = self._process.returncode
        if code is None:
            return "its output closed"
        return f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"


def _environment(python: Path, threads: int) -> dict[str, str]:
    """What an activated environment has, with the number of threads; nothing is fetched from a network."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THIS_PYTHON}
    return {
        **kept,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PATH": os.pathsep.join(filter(None, [str(python.parent), kept.get("PATH")])),
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _end(process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    """Ends the worker and what it started, at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group that is gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was still to be written cannot be
                pipe.close()
    if log is not None:
        log.unlink(missing_ok=True)
