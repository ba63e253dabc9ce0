"""Loading a model and its tokenizer from a folder or a hub, so that every defect has a name.

transformers fills tensors that a checkpoint lacks with random numbers and says so in a log; here that is an error. A
local folder is never looked up on a network. Safetensors are preferred; where there are none, a pickle is read as
tensors and nothing else: no file can run code.

This module does not know decoders, caches or what the model is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evodraft.errors import CapacityError, ConfigError, EvodraftError, UnsupportedModelError, WeightsError
from evodraft.runtime.integrity import check_folder, damaged_file
from evodraft.runtime.placement import chosen_device, chosen_dtype

_NO_CONVERSION: Final = "DISABLE_SAFETENSORS_CONVERSION"  # of transformers


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

    The files of a folder with a manifest are first compared with it (see `evodraft.runtime.integrity`).
    `dtype="auto"` keeps the checkpoint's; `device="auto"` takes the accelerator if there is one. With `device_map`
    accelerate places the layers and `device` must stay "auto".
    """
    if device_map is not None and device != "auto":
        raise ConfigError(
            f"device={device!r} and device_map={device_map!r} both place the model; pass only one of them"
        )
    weights = {"dtype": chosen_dtype(dtype), "device_map": device_map}
    destination = None if device_map is not None else chosen_device(device)
    folder = local_folder(name_or_path)
    place = str(folder or name_or_path)
    source: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": folder is not None,
    }
    if folder is not None:
        with _naming_defects(place, "files", folder):
            check_folder(folder)
    config = load_config(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    with _naming_defects(place, "weights", folder):
        model, report = _load_weights(place, config=config, **weights, **source)
        _check_report(place, report)
        if destination is not None:
            model = model.to(destination)
    tokenizer = load_tokenizer(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    return LoadedModel(model.eval(), tokenizer)


def load_config(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The transformers config of a model: all that there is to read before its weights."""
    folder = local_folder(name_or_path)
    place = str(folder or name_or_path)
    with _naming_defects(place, "config.json", folder):
        config = AutoConfig.from_pretrained(
            place, revision=revision, trust_remote_code=trust_remote_code, local_files_only=folder is not None
        )
        _refuse_foreign_kernels(place, config)
    return config


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; with `local_files_only` a hub's comes from the cache or not at all."""
    folder = local_folder(name_or_path)
    place = str(folder or name_or_path)
    with _naming_defects(place, "tokenizer", folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=local_files_only or folder is not None,
        )
    return tokenizer


def empty_model(config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """The module that a config describes, on the meta device: shapes and types of all weights, and no memory."""
    with _naming_defects(str(config.name_or_path), "config.json", None), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code).eval()


def local_folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder if it is one, None for a hub name."""
    if not os.fspath(name_or_path):
        raise WeightsError("the name of the model is empty; pass a folder or a hub name 'owner/model'")
    path = Path(os.path.expanduser(name_or_path))
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
    """Turns what transformers, torch and safetensors raise into our errors, with the place and the remedy."""
    try:
        yield
    except EvodraftError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise CapacityError(
            f"{place} does not fit on the device: {error}; use device_map or a smaller dtype"
        ) from error
    except Exception as error:  # what reads the files of others may raise anything
        damaged = damaged_file(folder) if folder is not None and what == "weights" else None
        if damaged is None and not isinstance(error, (OSError, RuntimeError, SafetensorError)):
            raise UnsupportedModelError(
                f"transformers cannot use the {what} of {place}: {_first_sentence(error)}; check that it is a causal "
                "language model of a known type and that its files are intact (a model with its own code needs "
                "trust_remote_code)"
            ) from error
        remedy = "copy or download the files again" if folder else "check the name, the revision and the network"
        if damaged is not None and damaged.suffix == ".bin":
            remedy = "it is damaged or holds more than tensors, of which nothing was run; convert it to safetensors"
        raise WeightsError(
            f"cannot read the {what} of {damaged or place}: {_first_sentence(error)}; {remedy}"
        ) from error


def _refuse_foreign_kernels(place: str, config: Any) -> None:
    """A config can name attention code on a hub, which transformers would fetch and run."""
    for part in (config, config.get_text_config()):
        name = part._attn_implementation
        if isinstance(name, str) and "/" in name:
            raise UnsupportedModelError(
                f"config.json of {place} asks for the attention code {name!r} from a hub, which is never run; "
                "take attn_implementation out of it"
            )


def _load_weights(place: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what transformers noticed while filling it."""
    with _no_conversion():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            weights_only=True,  # of pickles, which are read where there are no safetensors
            ignore_mismatched_sizes=True,  # only to name the tensors: _check_report raises
            output_loading_info=True,
            **options,
        )
    model, report = loaded
    return model, report


@contextmanager
def _no_conversion() -> Iterator[None]:
    """transformers would have a hub service convert pickles to safetensors; loading asks for files and nothing else."""
    before = os.environ.get(_NO_CONVERSION)
    os.environ[_NO_CONVERSION] = "1"
    try:
        yield
    finally:
        os.environ.pop(_NO_CONVERSION)
        if before is not None:
            os.environ[_NO_CONVERSION] = before


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


def _first_sentence(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return re.split(r"\.(\s|$)", line)[0] or type(error).__name__
