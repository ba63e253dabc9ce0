"""Where the demo models lie: two transformers folders, a manifest of their hashes, and prompts to try.

>>> sorted(path.name for path in (target_folder(), draft_folder()))
['draft', 'target']

Imports nothing but the standard library; does not know how to run a model.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Final

__all__ = ["DOMAINS", "draft_folder", "manifest", "prompts", "target_folder"]

DOMAINS: Final = ("general", "code", "law", "medicine", "math")


def target_folder() -> Path:
    """The target's transformers folder: config, weights in bfloat16, tokenizer, generation config."""
    return _folder() / "target"


def draft_folder() -> Path:
    """The draft's transformers folder; same tokenizer as the target."""
    return _folder() / "draft"


def prompts() -> list[dict[str, str]]:
    """Prompts to try, as dicts with `domain` and `prompt` (plain text of a user's message)."""
    lines = (_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def manifest() -> dict[str, object]:
    """SHA-256, size and provenance of each weights file."""
    content: dict[str, object] = json.loads((_folder() / "MANIFEST.json").read_text(encoding="utf-8"))
    return content


def _folder() -> Path:
    return Path(str(files("evodraft_demo")))
