"""WorkerProcess: replies, limits, and that nothing is left running."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evodraft.bench.peers.worker_process import WorkerProcess
from evodraft.errors import BenchError

# Holds a lock, through a child too, for as long as either lives; answers every line with the text of its prompt.
LOCKING = """
import fcntl, subprocess, sys
lock = open({lock!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[lock.fileno()])
for line in sys.stdin:
    if "close" not in line:
        print('{{"child": %d}}' % child.pid, flush=True)
child.kill()
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., WorkerProcess]:
    def make(source: str) -> WorkerProcess:
        script = tmp_path / "script.py"
        script.write_text(source, encoding="utf-8")
        return WorkerProcess("fake/plain", Path(sys.executable), script, 1, 60.0)

    return make


def is_released(path: Path) -> bool:
    """Whether nobody holds the lock any more; ends of processes are seen with a delay."""
    with path.open("w", encoding="utf-8") as lock:
        for _ in range(200):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return True
    return False


def logs(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("evodraft-fake-plain-*.log")}


def test_close_ends_the_whole_group_and_removes_the_log(start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    worker = start(LOCKING.format(lock=str(lock)).replace("child.kill()", ""))
    assert worker.ask({"op": "load"})["child"] > 0
    assert len(logs(tmp_path)) == 1
    worker.close()
    worker.close()
    assert is_released(lock)
    assert logs(tmp_path) == set()
    with pytest.raises(BenchError, match="fake/plain is closed$"):
        worker.ask({"op": "load"})


def test_a_collected_object_leaves_nothing(start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    worker = start(LOCKING.format(lock=str(lock)))
    worker.ask({"op": "load"})
    del worker
    assert is_released(lock)
    assert logs(tmp_path) == set()


@pytest.mark.parametrize("ending", ["raise SystemExit(1)", "os.kill(os.getpid(), 9)"])
def test_the_end_of_the_interpreter_ends_the_worker(tmp_path: Path, ending: str) -> None:
    lock, script, parent = tmp_path / "lock", tmp_path / "script.py", tmp_path / "parent.py"
    script.write_text(LOCKING.format(lock=str(lock)), encoding="utf-8")
    parent.write_text(
        "import os\nfrom pathlib import Path\nfrom evodraft.bench.peers.worker_process import WorkerProcess\n"
        f"worker = WorkerProcess('fake/plain', Path({sys.executable!r}), Path({str(script)!r}), 1, 60)\n"
        f"worker.ask({{'op': 'load'}})\n{ending}\n",
        encoding="utf-8",
    )
    code = subprocess.run([sys.executable, str(parent)], check=False).returncode
    assert code in (1, -signal.SIGKILL)
    assert is_released(lock)


def test_a_hanging_worker_is_ended_at_its_limit(
    start: Callable[..., WorkerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(
        "import sys, time\nsys.stdin.readline()\nprint('still busy', file=sys.stderr, flush=True)\n"
        "print('{}', flush=True)\ntime.sleep(600)\n"
    )
    worker.ask({"op": "load"})
    monkeypatch.setattr(worker, "_reply_limit_s", 0.2)
    with pytest.raises(BenchError, match=r"no reply to 'generate' within the limit of 0\.2 s") as caught:
        worker.ask({"op": "generate"})
    (log,) = logs(tmp_path)
    assert log in str(caught.value)
    assert "still busy" in str(caught.value)
    worker.close()
    assert logs(tmp_path) == {log}  # kept: it says why


def test_a_killed_worker_is_named_by_its_signal(start: Callable[..., WorkerProcess]) -> None:
    worker = start("import os, sys\nsys.stdin.readline()\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(BenchError, match=r"ended with signal 9 \(Killed\) during 'load'") as caught:
        worker.ask({"op": "load"})
    assert "(empty)" in str(caught.value)


def test_a_worker_that_has_ended_cannot_be_asked(start: Callable[..., WorkerProcess]) -> None:
    worker = start("import sys\nsys.stdin.readline()\nprint('{}', flush=True)\n")
    assert worker.ask({"op": "load"}) == {}
    with pytest.raises(BenchError, match="ended with exit code 0"):
        worker.ask({"op": "memory"})  # the pipe may still be open or not: the same error


def test_a_worker_that_closes_its_output_is_not_waited_for_long(
    start: Callable[..., WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evodraft.bench.peers.worker_process._CLOSE_LIMIT_S", 0.1)
    worker = start("import os, time\nos.close(1)\ntime.sleep(600)\n")
    with pytest.raises(BenchError, match="the worker ended with its output closed during 'load'"):
        worker.ask({"op": "load"})


def test_output_that_is_no_json_object_is_refused(start: Callable[..., WorkerProcess]) -> None:
    worker = start("import sys\nsys.stdin.readline()\nprint('hello', flush=True)\nsys.stdin.readline()\n")
    with pytest.raises(BenchError, match="replied b'hello', which is no JSON object"):
        worker.ask({"op": "load"})


def test_an_error_where_none_may_be_is_a_bench_error(start: Callable[..., WorkerProcess]) -> None:
    worker = start('import sys\nsys.stdin.readline()\nprint(\'{"error": "no"}\', flush=True)\nsys.stdin.readline()\n')
    with pytest.raises(BenchError, match="reset: no"):
        worker.demand({"op": "reset"})


def test_a_python_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="does not start.*install the peer again"):
        WorkerProcess("fake/plain", tmp_path / "python", tmp_path / "script.py", 1, 1.0)
    assert logs(tmp_path) == set()


def test_many_lines_in_one_write_are_told_apart(start: Callable[..., WorkerProcess]) -> None:
    worker = start(
        'import sys\nsys.stdin.readline()\nprint(\'{"a": 1}\\n{"a": 2}\', flush=True)\nsys.stdin.readline()\n'
        "sys.stdin.readline()\n"
    )
    assert worker.ask({"op": "load"}) == {"a": 1}
    assert worker.ask({"op": "load"}) == {"a": 2}
    worker.close()
