"""One step of an installation: a program that is run, and what it said last if it fails. Knows no peer."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from evodraft.errors import BenchError

_NUM_LAST_LINES: Final = 15


def run_step(
    who: str,
    command: Sequence[str],
    say: Callable[[str], None],
    is_shown: Callable[[str], bool],
    variables: Mapping[str, str] | None = None,
) -> Sequence[str]:
    """The last lines of what a step printed; those that `is_shown` likes are said at once.

    Raises BenchError with the last lines if the program ends with another exit code than 0.
    """
    last: deque[str] = deque(maxlen=_NUM_LAST_LINES)
    with subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in map(str.rstrip, process.stdout):
            last.append(line)
            if is_shown(line):
                say(f"  {line}")
    if process.returncode != 0:
        shown = "\n".join(f"  {line}" for line in last)
        raise BenchError(
            f"peer {who}: a step of the installation failed with exit code {process.returncode}: "
            f"{' '.join(command)}\n{shown}"
        )
    return last
