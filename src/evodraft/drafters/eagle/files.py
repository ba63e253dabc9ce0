"""A head from the files in which heads are published, and back.

A folder is never looked up on a network. Safetensors are preferred; a pickle is read as tensors and nothing else. A
config.json is read as data: no code that it names is run. Does not know targets, slots or how a head drafts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils.hub import cached_file

from evodraft.drafters.eagle.head import EagleHead
from evodraft.drafters.eagle.layouts import OWN_BLOCK, OWN_FORMAT, HeadDescription, describe
from evodraft.drafters.eagle.origin import Origin
from evodraft.drafters.eagle.tensors import Tensors, build_head, published_ids
from evodraft.errors import CapacityError, EvodraftError, WeightsError
from evodraft.runtime.integrity import check_folder
from evodraft.runtime.load import local_folder

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
_WEIGHT_FILES: Final = (
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True, slots=True)
class HeadFiles:
    """A head that was found and described, and whose weights are not read yet."""

    place: str  # a folder or a hub id, for messages
    description: HeadDescription
    fetch: Callable[[str], Path | None]  # name of a file -> where it is; None if there is none

    def load(
        self, num_target_layers: int, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> EagleHead:
        """The head in eval mode, in `dtype` or as it is stored; `num_target_layers` counts where no taps are named.

        Raises WeightsError for files that are missing or damaged and for tensors that are missing, surplus or of the
        wrong shape, and UnsupportedModelError for heads of another kind.
        """
        with _naming_defects(self.place):
            tensors = _read(self.fetch, self.place)
            return build_head(
                tensors, self.description, num_target_layers, self.place, dtype=dtype, device=torch.device(device)
            )


def find_head(source: str | os.PathLike[str], revision: str | None = None) -> HeadFiles:
    """A head in a folder, or on the hub at `revision`; of its files only config.json is read.

    The files of a folder with a manifest are compared with it. Raises WeightsError or UnsupportedModelError.
    """
    folder = local_folder(source)
    place = str(folder or source)
    fetch = _hub_files(str(source), revision) if folder is None else _folder_files(folder)
    with _naming_defects(place):
        if folder is not None:
            check_folder(folder)
        path = fetch(CONFIG_FILE)
        assert path is not None, "a folder without one is none, and the hub raises"
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise WeightsError(f"{CONFIG_FILE} of {place} holds a {type(config).__name__}, not an object; download it")
        return HeadFiles(place, describe(config, place), fetch)


def load_head(
    source: str | os.PathLike[str],
    *,
    num_target_layers: int,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> EagleHead:
    """`find_head` and `HeadFiles.load` in one."""
    return find_head(source, revision).load(num_target_layers, dtype=dtype, device=device)


def save_head(
    head: EagleHead,
    folder: Path,
    *,
    target: torch.nn.Module | None = None,
    target_name: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors` as heads are published, so that other engines read them too.

    Args:
        head: its weights are stored in the dtype they have.
        folder: made if it is missing; files of the two names are replaced.
        target: the model it was trained for, so that it is not used with another one.
        target_name: what messages call that model.
        provenance: anything that JSON holds, kept in the config.

    >>> import tempfile
    >>> from evodraft.testing.heads import tiny_head
    >>> from evodraft.testing.tiny import tiny_model
    >>> target = tiny_model("llama")
    >>> with tempfile.TemporaryDirectory() as name:
    ...     save_head(tiny_head(target), Path(name), target=target)
    ...     load_head(name, num_target_layers=2).shape.taps
    (0, 1, 2)
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {"format": OWN_FORMAT, "taps": list(head.shape.taps), "target_name": target_name}
    if target is not None:
        origin = Origin.of(target)
        own["target"] = {name: getattr(origin, name) for name in Origin.__slots__}
    config = _published_config(head) | {OWN_BLOCK: own | {"provenance": dict(provenance or {})}}
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    if head.token_ids is not None:
        tensors |= published_ids(head.token_ids.cpu(), head.shape.config.vocab_size)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# ---- finding and reading -------------------------------------------------------------------------------------------


def _folder_files(folder: Path) -> Callable[[str], Path | None]:
    return lambda name: folder / name if (folder / name).is_file() else None


def _hub_files(name: str, revision: str | None) -> Callable[[str], Path | None]:
    def fetch(file: str) -> Path | None:
        is_needed = file == CONFIG_FILE  # which files hold the weights is tried out
        found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=is_needed)
        return None if found is None else Path(found)

    return fetch


def _read(fetch: Callable[[str], Path | None], place: str) -> Tensors:
    path = next((path for path in map(fetch, _WEIGHT_FILES) if path is not None), None)
    if path is None:
        raise WeightsError(f"{place} holds none of {', '.join(_WEIGHT_FILES)}; copy or download the weights")
    if path.suffix != ".json":
        return _read_file(path)
    tensors: Tensors = {}
    for name in sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())):
        if PurePosixPath(name).name != name:
            raise WeightsError(f"{path} names {name!r}, which is outside of its folder; use files that you trust")
        shard = fetch(name)
        if shard is None:
            raise WeightsError(f"{place} lacks {name}, which its index names; copy or download it")
        tensors |= _read_file(shard)
    return tensors


def _read_file(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise WeightsError(f"{path} holds more than named tensors; convert it to safetensors")
    return loaded


@contextmanager
def _naming_defects(place: str) -> Iterator[None]:
    """Turns what torch, safetensors, JSON and the hub raise into our errors."""
    try:
        yield
    except EvodraftError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise CapacityError(f"the head {place} does not fit on the device: {error}; take a smaller dtype") from error
    except Exception as error:  # what reads the files of others may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"cannot read the head {place}: {reason}; check name, revision and network, or copy or download its files "
            "again (of a pickle with more than tensors nothing was run: convert it to safetensors)"
        ) from error


def _published_config(head: EagleHead) -> dict[str, Any]:
    shape, layer = head.shape, head.shape.config
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
        "dtype": str(head.fc.weight.dtype).removeprefix("torch."),
        "vocab_size": layer.vocab_size,
        "draft_vocab_size": shape.draft_vocab_size or layer.vocab_size,
        "hidden_size": layer.hidden_size,
        "target_hidden_size": shape.target_hidden_size,
        "intermediate_size": layer.intermediate_size,
        "num_attention_heads": layer.num_attention_heads,
        "num_key_value_heads": layer.num_key_value_heads,
        "head_dim": head.midlayer.self_attn.head_dim,
        "hidden_act": layer.hidden_act,
        "rms_norm_eps": layer.rms_norm_eps,
        "max_position_embeddings": layer.max_position_embeddings,
        "attention_bias": layer.attention_bias,
        "rope_parameters": layer.rope_parameters,
        "rope_theta": (layer.rope_parameters or {}).get("rope_theta"),  # as readers before transformers 5 have it
        "norm_before_residual": shape.norm_before_residual,
        "eagle_aux_hidden_state_layer_ids": list(shape.taps),  # as vLLM counts
        "eagle_config": {  # as SGLang counts
            "use_aux_hidden_state": True,
            "eagle_aux_hidden_state_layer_ids": [tap - 1 for tap in shape.taps],
        },
    }
