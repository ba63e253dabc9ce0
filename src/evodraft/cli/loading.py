"""Model and parts as flags name them, to an LLM. Does not know what it is wanted for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from evodraft.llm import LLM


def load_llm(model: str, **options: Any) -> LLM:
    """`LLM.from_pretrained` with one quiet sign of life; what must be downloaded shows its own progress."""
    from evodraft.llm import LLM

    if not quieten(model):
        return LLM.from_pretrained(model, **options)
    with Console(stderr=True).status(Text(f"loading {model}")):
        return LLM.from_pretrained(model, **options)


def quieten(model: str) -> bool:
    """Silences transformers, except for the progress of downloads; True if there is nothing to download."""
    import transformers  # takes seconds, as torch does: `--help` must not wait for it

    from evodraft.assemble import DEMO

    transformers.utils.logging.set_verbosity_error()  # what is wrong comes as an error of ours
    is_here = model == DEMO or Path(model).expanduser().is_dir()
    if is_here:
        transformers.utils.logging.disable_progress_bar()
    return is_here
