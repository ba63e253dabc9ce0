"""Write a distributable pair of models: transformers folders in bfloat16, a manifest, nothing else.

Does not know: how the models were trained, or how the package around the bundle is built.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import torch

from evodraft.errors import WeightsError
from evodraft.runtime.integrity import MANIFEST_FILE, check_manifest, record_of
from evodraft.training.tokenizer import save_tokenizer, special_ids
from evodraft.training.weights import load_weights, unique_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from evodraft.training.provenance import Provenance

WEIGHTS_FILE = "model.safetensors"


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, dtype: torch.dtype) -> None:
    """Write `model` in `dtype`, its tokenizer and its generation config to `folder`, replacing what is there.

    Tied weights are stored once; `model` itself keeps its precision.
    """
    from transformers import GenerationConfig

    ids = special_ids(tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    copy = type(model)(model.config)
    load_weights(copy, unique_weights(model))
    for parameter in copy.parameters():
        parameter.data = parameter.data.to(dtype)
    copy.config.dtype = dtype
    copy.generation_config = GenerationConfig(
        bos_token_id=ids.separator, eos_token_id=[ids.separator, ids.end], pad_token_id=ids.pad
    )
    copy.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private, which a wheel would keep


def write_manifest(folder: Path, provenance: Mapping[str, Provenance]) -> dict[str, Any]:
    """Write `folder/MANIFEST.json`: hash and size of every file, provenance of each model named in `provenance`."""
    models: dict[str, Any] = {}
    for name, record in provenance.items():
        weights = folder / name / WEIGHTS_FILE
        if not weights.is_file():
            raise WeightsError(f"{weights} is missing; save the model before its manifest")
        models[name] = {"file": f"{name}/{WEIGHTS_FILE}", "provenance": record.as_dict()} | _record(weights)
    files = {
        path.relative_to(folder).as_posix(): _record(path)
        for name in provenance
        for path in sorted((folder / name).glob("*"))
    }
    manifest = {"format": 1, "models": models, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


def verify_bundle(folder: Path) -> None:
    """Raise `WeightsError` unless there is a manifest and every file it lists is there with its recorded hash."""
    if not (folder / MANIFEST_FILE).is_file():
        raise WeightsError(f"{folder} has no {MANIFEST_FILE}; write the bundle again")
    check_manifest(folder)


def _record(path: Path) -> dict[str, Any]:
    record = record_of(path)
    assert record is not None, path
    return record._asdict()


def save_provenance(provenance: Provenance, path: Path) -> None:
    """Write one record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(provenance.as_dict(), indent=1) + "\n", encoding="utf-8")


def load_provenance(path: Path) -> Provenance:
    """Read a record written by `save_provenance`. Raises `WeightsError` when it is missing or malformed."""
    from evodraft.training.provenance import Provenance

    try:
        return Provenance(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is no provenance record ({error}); train again") from error


def load_model(folder: Path) -> LlamaForCausalLM:
    """The Llama model in `folder`, in float32 and in evaluation mode. Raises `WeightsError` when there is none."""
    from transformers import LlamaForCausalLM

    if not (folder / WEIGHTS_FILE).is_file():
        raise WeightsError(f"no {WEIGHTS_FILE} in {folder}; give the folder of a trained model")
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.eval()
    return model
