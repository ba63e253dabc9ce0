"""Reads JSONL files, plain or compressed (.gz, .xz). Does not know what a record means."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from evodraft.errors import BenchError

_OPENERS: Final[Mapping[str, Callable[..., Any]]] = {".xz": lzma.open, ".gz": gzip.open}


class Record(NamedTuple):
    """One object of a file."""

    place: str  # "prompts.jsonl, line 3"
    fields: Mapping[str, Any]


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a file, one for each line that is not blank.

    Raises BenchError, with the line, for a file that is missing, damaged, or holds something else.
    """
    number = 0
    try:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _record(f"{path.name}, line {number}", line)
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not UTF-8 text after line {number} ({error.reason}); convert it") from error
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise BenchError(f"{path} is damaged after line {number} ({error}); fetch it again") from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _record(place: str, line: str) -> Record:
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{place} is not JSON ({error}); every line must be one object") from error
    if not isinstance(loaded, dict):
        raise BenchError(f"{place} is not an object but {type(loaded).__name__}; every line must be one object")
    return Record(place, loaded)
