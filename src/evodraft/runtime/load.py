"""Loading a model and its tokenizer from a folder or a hub, so that every defect has a name.

transformers fills tensors that a checkpoint lacks with random numbers and says so in a log; here that is an error. A
local folder is never looked up on a network, and only safetensors are read: no file can run code.

This module does not know decoders, caches or what the model is for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evodraft.errors import CapacityError, ConfigError, UnknownOptionError, UnsupportedModelError, WeightsError

_DTYPES: Final = ("auto", "bfloat16", "float16", "float32", "float64")


class LoadedModel(NamedTuple):
    """A model in eval mode and the tokenizer stored beside it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Loads a causal language model from a local folder or by its hub name.

    `dtype="auto"` keeps the checkpoint's; `device="auto"` takes the accelerator if there is one. With `device_map`
    accelerate places the layers and `device` must stay "auto".
    """
    if device_map is not None and device != "auto":
        raise ConfigError(
            f"device={device!r} and device_map={device_map!r} both place the model; pass only one of them"
        )
    weights = {"dtype": _dtype(dtype), "device_map": device_map}
    destination = None if device_map is not None else _device(device)
    folder = _local_folder(name_or_path)
    place = str(folder or name_or_path)
    source: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": folder is not None,
    }
    with _naming_defects(place, "config.json", folder):
        config = AutoConfig.from_pretrained(place, **source)
    with _naming_defects(place, "weights", folder):
        model, report = _load_weights(place, config=config, **weights, **source)
        _check_report(place, report)
        if destination is not None:
            model = model.to(destination)
    with _naming_defects(place, "tokenizer", folder):
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
    return LoadedModel(model.eval(), tokenizer)


def _local_folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder if it is one, None for a hub name."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise WeightsError(f"{path} has no config.json; pass the folder that save_pretrained wrote")
        return path
    if path.exists():
        raise WeightsError(f"{path} is a file, not a folder; pass the folder that holds config.json and the weights")
    if _looks_like_path(name_or_path, path):
        raise WeightsError(f"the folder {path} does not exist; check the path (a hub name looks like 'owner/model')")
    return None


def _looks_like_path(name: str | os.PathLike[str], path: Path) -> bool:
    text = str(name)
    is_written_so = isinstance(name, os.PathLike) or text.startswith((".", "~", os.sep)) or text.count("/") > 1
    return is_written_so or "\\" in text or (path.parent != Path() and path.parent.is_dir())


@contextmanager
def _naming_defects(place: str, what: str, folder: Path | None) -> Iterator[None]:
    """Turns what transformers and safetensors raise into our errors, with the place and the remedy."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"{place} does not fit on the device: {error}; use device_map or a smaller dtype"
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        where = _damaged_file(folder) or place
        remedy = "copy or download the files again" if folder else "check the name, the revision and the network"
        raise WeightsError(f"cannot read the {what} of {where}: {_first_line(error)}; {remedy}") from error
    except (ValueError, ImportError, KeyError) as error:
        raise UnsupportedModelError(
            f"transformers cannot use the {what} of {place}: {_first_line(error)}; check that it is a causal language "
            "model of a known type and that its files are intact (a model with its own code needs trust_remote_code)"
        ) from error


def _load_weights(place: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what transformers noticed while filling it."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        place,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # only to name the tensors: _check_report raises
        output_loading_info=True,
        **options,
    )
    model, report = loaded
    return model, report


def _check_report(place: str, report: Mapping[str, Any]) -> None:
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        raise WeightsError(
            f"{place}: {len(mismatched)} tensors have another shape than config.json says, first {name}: "
            f"{tuple(stored)} stored, {tuple(expected)} expected; config and weights belong to different models"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{place}: {len(missing)} tensors are missing, first {missing[0]}; they would be random; copy or download "
            "the weights again, or repair config.json"
        )


def _damaged_file(folder: Path | None) -> Path | None:
    for file in sorted(folder.glob("*.safetensors")) if folder else []:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return file
    return None


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype not in _DTYPES:
        raise UnknownOptionError("dtype", dtype, _DTYPES)
    found: torch.dtype = getattr(torch, dtype)
    return found


def _device(device: str | torch.device) -> torch.device:
    """The device, which exists. Raises ConfigError otherwise."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device={device!r}: {_first_line(error)}; use 'auto', 'cpu' or 'cuda'") from error
    here = {"cpu", "meta"} | ({accelerator.type} if accelerator else set())
    if found.type not in here:
        raise ConfigError(
            f"device={device!r} is not here; torch sees {', '.join(sorted(here - {'meta'}))}; use one of them"
        )
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
