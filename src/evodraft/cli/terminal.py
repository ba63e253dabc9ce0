"""How commands read and write: answers to standard output, everything beside them to standard error.

Does not know what is said.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from evodraft.display import printable
from evodraft.errors import EvodraftError, PromptError


def write(text: str) -> None:
    """A part of an answer, at once: as it is into a pipe or file, without control characters onto a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Something beside the answer, dimmed."""
    Console(stderr=True).print(Text(printable(text), "dim"), soft_wrap=True)


def complain(error: EvodraftError) -> None:
    """An error of the tree as one line, without a stack trace."""
    message = Text.assemble((f"{type(error).__name__}: ", "bold red"), printable(str(error)))
    Console(stderr=True).print(message, soft_wrap=True)


def decoded(read: bytes) -> str:
    """What was read from standard input, without the last line break, which shells and editors add."""
    try:
        return read.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"standard input is not UTF-8 at byte {error.start}; convert it with iconv") from None
