"""Files that commands write. Does not know what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evodraft.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, making its folders; raises ConfigError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another file") from error
