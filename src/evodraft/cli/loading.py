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
    import transformers  # takes seconds, as torch does: `--help` must not wait for it

    from evodraft.assemble import DEMO
    from evodraft.llm import LLM

    transformers.utils.logging.set_verbosity_error()  # what is wrong comes as an error of ours
    if model != DEMO and not Path(model).expanduser().is_dir():
        return LLM.from_pretrained(model, **options)
    transformers.utils.logging.disable_progress_bar()
    with Console(stderr=True).status(Text(f"loading {model}")):
        return LLM.from_pretrained(model, **options)
