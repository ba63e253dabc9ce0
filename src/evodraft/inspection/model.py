"""A model before its weights are loaded: built from its config on the meta device, where it takes no memory.

Does not know whether the model is a target or a draft.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import safe_open
from transformers.utils.hub import cached_file

from evodraft.errors import ModelError, UnsupportedModelError
from evodraft.inspection.report import ModelReport
from evodraft.runtime.integrity import damaged_file
from evodraft.runtime.load import empty_model, load_config, load_tokenizer, local_folder
from evodraft.runtime.placement import chosen_dtype
from evodraft.runtime.support import ModelFacts

_STORED_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_WEIGHT_FILES: Final = ("model.safetensors", "model.safetensors.index.json")
_EXPERT_COUNTS: Final = ("num_local_experts", "num_experts", "n_routed_experts")


class Blueprint(NamedTuple):
    """A model that is described and not loaded."""

    report: ModelReport
    facts: ModelFacts | None  # None if it cannot be decoded
    problems: tuple[str, ...]  # why it would not load or decode
    warnings: tuple[str, ...]
    model: Any = None  # on the meta device


def read_model(
    name: str, dtype: str | torch.dtype, revision: str | None = None, *, trust_remote_code: bool = False
) -> Blueprint:
    """What the config of a model says, and which of its files are here.

    Raises WeightsError or UnsupportedModelError if not even the config can be read.
    """
    folder = local_folder(name)
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
    files = _weight_files(folder)
    chosen = _dtype(config, dtype, files)
    model = empty_model(config, chosen, trust_remote_code=trust_remote_code)
    facts, problems = _facts(model)
    problems += tuple(_file_problems(folder, files, trust_remote_code))
    text = config.get_text_config(decoder=True)
    stored = sum(file.stat().st_size for file in files) if files else _cached_bytes(name, revision)
    is_quantised = getattr(config, "quantization_config", None) is not None
    tensors = [*model.parameters(), *model.buffers()]
    report = ModelReport(
        name=name,
        model_type=text.model_type,
        architecture=type(model).__name__,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_layers=text.num_hidden_layers,
        vocab_size=model.get_input_embeddings().weight.shape[0],
        context_length=facts.context_length if facts else None,
        dtype=str(chosen).removeprefix("torch."),
        weight_bytes=stored if is_quantised and stored else sum(tensor.nbytes for tensor in tensors),
        cache_bytes_per_token=facts.bytes_per_token if facts else None,
        num_file_bytes=stored,
    )
    warnings = tuple(_warnings(config, name, is_quantised, stored, trust_remote_code))
    return Blueprint(report, facts, problems, warnings, model)


def _facts(model: torch.nn.Module) -> tuple[ModelFacts | None, tuple[str, ...]]:
    try:
        return ModelFacts.of(model), ()
    except UnsupportedModelError as error:
        return None, (str(error),)


def _weight_files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _file_problems(folder: Path | None, files: list[Path], has_trust: bool) -> Iterator[str]:
    if folder is None:
        return
    if not files:
        yield f"{folder} holds no weights; copy or download them"
    damaged = damaged_file(folder)
    if damaged is not None:
        yield f"{damaged} does not open; copy or download it again"
    try:
        load_tokenizer(folder, trust_remote_code=has_trust)
    except ModelError as error:
        yield str(error)


def _cached_bytes(name: str, revision: str | None) -> int | None:
    """Bytes of a hub model's weights in the local cache; None if they are not there."""
    for file in _WEIGHT_FILES:
        try:
            found = cached_file(name, file, revision=revision, local_files_only=True)
        except OSError:
            continue
        return sum(path.stat().st_size for path in Path(str(found)).parent.glob("*.safetensors"))
    return None


def _dtype(config: Any, dtype: str | torch.dtype, files: list[Path]) -> torch.dtype:
    """As transformers would choose: the one asked for, else the config's, else that of the stored numbers."""
    chosen = chosen_dtype(dtype)
    if isinstance(chosen, torch.dtype):
        return chosen
    named = config.dtype or config.get_text_config(decoder=True).dtype
    return named or _stored_dtype(files) or torch.float32


def _stored_dtype(files: list[Path]) -> torch.dtype | None:
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # no mapping, in spite of its methods
                    found = _STORED_DTYPES.get(tensors.get_slice(name).get_dtype())
                    if found is not None:
                        return found
    return None


def _warnings(config: Any, name: str, is_quantised: bool, num_file_bytes: int | None, has_trust: bool) -> Iterator[str]:
    if is_quantised and num_file_bytes is None:
        yield f"{name} is quantised, and its files are not here: its weights take less than what is shown"
    if has_trust and getattr(config, "auto_map", None):
        yield f"{name} comes with code of its own, which runs here with your rights because trust_remote_code is set"
    text = config.get_text_config(decoder=True)
    if any((getattr(text, count, None) or 0) > 1 for count in _EXPERT_COUNTS):
        yield (
            f"{name} is a mixture of experts: several tokens wake more experts than one, so that a pass over a draft "
            "costs more than plain decoding's and speculation gains less than the best case says"
        )
