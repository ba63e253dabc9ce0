"""Token maps: files that list token ids, the most frequent first.

Three formats, by the name's ending. SGLang's `--speculative-token-map` reads the first: a Python list in a torch file.
A file may come from anybody: it is read as data, its size is bounded, and every defect has a name.

Does not know models, tokenizers or what the ids are for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from evodraft.errors import ConfigError, WeightsError

LARGEST_FILE: Final = 64 << 20  # bytes; the largest vocabularies take 3
LARGEST_MAP: Final = 1 << 22  # ids


def read_token_map(path: Path) -> list[int]:
    """The ids of a file in its order. Raises WeightsError for a file that is no list of distinct, whole numbers."""
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{path.name} is no token map: its name ends in none of {', '.join(FORMATS)}; rename it")
    if not path.is_file():
        raise WeightsError(f"there is no token map {path}; check the path, or make it with 'evodraft train vocabulary'")
    if path.stat().st_size > LARGEST_FILE:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes, a token map at most {LARGEST_FILE}; check the path"
        )
    try:
        found = reader(path)
    except Exception as error:  # what reads the files of others may raise anything
        raise WeightsError(
            f"{path} cannot be read as a token map: {_first_line(error)}; make or copy it again"
        ) from error
    return _checked(path, found)


def write_token_map(path: Path, ids: Sequence[int]) -> None:
    """Writes `ids` in their order, in the format that the name's ending says. Raises ConfigError for another ending."""
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        raise ConfigError(f"{path.name} ends in none of {', '.join(FORMATS)}, which say the format; rename it")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(path, list(ids))


def _checked(path: Path, found: object) -> list[int]:
    if not isinstance(found, list):
        raise WeightsError(
            f"{path} holds {_kind(found)} and no list of token ids; 'evodraft train vocabulary' writes a token map"
        )
    strange = [entry for entry in found if isinstance(entry, bool) or not isinstance(entry, int)]
    if strange:
        raise WeightsError(
            f"{path} lists {strange[0]!r:.40}, which is no token id; list whole numbers and nothing else"
        )
    if not found or len(found) > LARGEST_MAP:
        raise WeightsError(f"{path} lists {len(found)} token ids; list at least 1 and at most {LARGEST_MAP}")
    twice = [token_id for token_id, count in Counter(found).most_common(1) if count > 1]
    if twice:
        raise WeightsError(f"{path} lists token id {twice[0]} more than once; list each id once")
    return found


def _read_torch(path: Path) -> object:
    found = torch.load(path, map_location="cpu", weights_only=True)
    return _listed(found) if isinstance(found, torch.Tensor) else list(found) if isinstance(found, tuple) else found


def _listed(tensor: torch.Tensor) -> object:
    """A vector of whole numbers as a list. A view may claim more of them than the file holds: it is measured first."""
    is_vector = tensor.layout == torch.strided and tensor.ndim == 1 and tensor.numel() <= LARGEST_MAP
    is_whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    return tensor.tolist() if is_vector and is_whole else tensor


def _read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_text(path: Path) -> object:
    return [int(line) for line in path.read_text(encoding="utf-8").split()]


def _write_torch(path: Path, ids: list[int]) -> None:
    torch.save(ids, path)


def _write_json(path: Path, ids: list[int]) -> None:
    path.write_text(json.dumps(ids) + "\n", encoding="utf-8")


def _write_text(path: Path, ids: list[int]) -> None:
    path.write_text("".join(f"{token_id}\n" for token_id in ids), encoding="utf-8")


def _kind(found: object) -> str:
    if isinstance(found, torch.Tensor):
        return f"a tensor of {str(found.dtype).removeprefix('torch.')} and shape {tuple(found.shape)}"
    return f"a {type(found).__name__}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_READERS: Final[Mapping[str, Callable[[Path], object]]] = {
    ".pt": _read_torch,
    ".json": _read_json,
    ".txt": _read_text,
}
_WRITERS: Final[Mapping[str, Callable[[Path, list[int]], Any]]] = {
    ".pt": _write_torch,
    ".json": _write_json,
    ".txt": _write_text,
}
FORMATS: Final = tuple(_READERS)
