"""Random weights as a folder that other engines can load: written once, in the user's cache. Starts no engine.

A folder holds what `save_pretrained` writes, the demo's tokenizer (engines want one, and nothing is said with it), and
a manifest, without which it does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from evodraft.assemble import demo_folder
from evodraft.bench.synthetic.pair import RandomPair, fitting_recipe, pair_of
from evodraft.bench.synthetic.shapes import shape_of
from evodraft.errors import BenchError, WeightsError
from evodraft.runtime.integrity import MANIFEST_FILE, check_manifest, record_of
from evodraft.runtime.load import empty_model, load_model
from evodraft.runtime.placement import chosen_device

if TYPE_CHECKING:
    from evodraft.bench.synthetic.pair import Recipe

CACHE_VARIABLE: Final = "XDG_CACHE_HOME"
_FORMAT: Final = 1  # to be raised when the same recipe makes other weights
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class StoredPair(NamedTuple):
    """A random pair, and the folder from which its target came."""

    pair: RandomPair
    folder: Path


def stored_pair(
    shape: str, dtype: str | torch.dtype = "auto", device: str | torch.device = "auto", num_copies: int = 1
) -> StoredPair:
    """The pair that `random_pair` makes, its target loaded from a folder that is written if it is not there yet.

    `num_copies` engines hold the weights at once; where memory is short of that, the model has fewer layers.
    """
    recipe = fitting_recipe(shape, dtype, device, num_copies=num_copies)
    folder = stored(recipe)
    model = load_model(folder, dtype=recipe.dtype, device=chosen_device(device)).model
    return StoredPair(pair_of(recipe, model), folder)


def stored(recipe: Recipe) -> Path:
    """The folder of a recipe's model, reused if it is complete. Raises BenchError if it cannot be written."""
    root = cache_folder() / "synthetic"
    folder = root / _name(recipe)
    if _is_complete(folder):
        return folder
    try:
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # compiled code may lie beside it
        root.mkdir(exist_ok=True)
        _check_room(root, recipe)
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".unfinished-") as unfinished:
            written = Path(unfinished) / folder.name
            _write(written, recipe)
            written.rename(folder)
    except OSError as error:
        if not _is_complete(folder):  # else another process was faster
            raise BenchError(
                f"cannot write random weights to {folder}: {error.strerror}; name another place in {CACHE_VARIABLE}"
            ) from error
    return folder


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this project keeps what it can make again: in XDG_CACHE_HOME, by default ~/.cache.

    >>> cache_folder({"XDG_CACHE_HOME": "/var/cache/me"}).as_posix()
    '/var/cache/me/evodraft'
    """
    named = Path(environment.get(CACHE_VARIABLE, ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "evodraft"


def _name(recipe: Recipe) -> str:
    shape = shape_of(recipe.shape)
    parts: list[Any] = [_FORMAT, shape.model_type, dict(shape.sizes), recipe.num_layers, str(recipe.dtype), recipe.seed]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{recipe.shape}-{str(recipe.dtype).removeprefix('torch.')}-{digest[:12]}"


def _is_complete(folder: Path) -> bool:
    try:
        check_manifest(folder)
    except WeightsError:
        return False
    return (folder / MANIFEST_FILE).is_file()


def _check_room(root: Path, recipe: Recipe) -> None:
    weights = empty_model(shape_of(recipe.shape).config(recipe.num_layers), recipe.dtype).parameters()
    needed, free = sum(weight.nbytes for weight in weights), shutil.disk_usage(root).free
    if needed > free:
        raise BenchError(
            f"random weights in the shape of {recipe.shape} take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB "
            f"are free in {root}; make room, or name another place in {CACHE_VARIABLE}"
        )


def _write(folder: Path, recipe: Recipe) -> None:
    recipe.model(torch.device("cpu")).save_pretrained(folder)
    for name in _TOKENIZER_FILES:
        source = demo_folder() / "target" / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    records = {path.name: record_of(path) for path in sorted(folder.iterdir())}
    listed = {name: record._asdict() for name, record in records.items() if record is not None}
    weights = {name: {"file": name, **listed[name]} for name in listed if name.endswith(".safetensors")}
    manifest = {"format": 1, "synthetic": recipe.note, "models": weights, "files": listed}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
