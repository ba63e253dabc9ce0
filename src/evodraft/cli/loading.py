"""Model and parts as flags name them, to an LLM. Does not know what it is wanted for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from evodraft.cli.terminal import note

if TYPE_CHECKING:
    from evodraft.llm import LLM


def load_llm(model: str, **options: Any) -> LLM:
    """`LLM.from_pretrained` with one quiet sign of life; what must be downloaded shows its own progress."""
    from evodraft.llm import LLM

    with sign_of_life(model):
        return LLM.from_pretrained(model, **options)


@contextmanager
def sign_of_life(model: str) -> Iterator[None]:
    """On a terminal says what takes so long, and is gone when it is over."""
    if not quieten(model):
        with heard(note):  # downloads draw bars, which leave no room for a line that moves
            yield
        return
    with (
        Console(stderr=True).status(Text(f"loading {model}")) as status,
        heard(lambda message: status.update(Text(message))),
    ):
        yield


@contextmanager
def heard(tell: Callable[[str], None]) -> Iterator[None]:
    """Passes on what the library logs of its work, which it never prints."""
    logger, handler = logging.getLogger("evodraft"), _Handler(tell)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def quieten(model: str) -> bool:
    """Silences transformers, except for the progress of downloads; True if there is nothing to download."""
    import transformers  # takes seconds, as torch does: `--help` must not wait for it

    from evodraft.assemble import DEMO

    transformers.utils.logging.set_verbosity_error()  # what is wrong comes as an error of ours
    is_here = model == DEMO or Path(model).expanduser().is_dir()
    if is_here:
        transformers.utils.logging.disable_progress_bar()
    return is_here


class _Handler(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
