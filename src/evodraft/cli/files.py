"""Files that commands write. Does not know what is in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from evodraft.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def check_writable(path: Path | None) -> None:
    """Raises ConfigError where `write_text` would; for before the work whose result is to be written. Makes folders."""
    if path is None:
        return
    if path.exists():  # it may be a pipe: that is not to be opened twice
        if path.is_dir() or not os.access(path, os.W_OK):
            raise ConfigError(f"cannot write {path}: it is a folder, or not to be changed; choose another file")
        return
    write_text(path, "")
    path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, making its folders; raises ConfigError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another file") from error
