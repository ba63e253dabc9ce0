"""Write a distributable bundle: a pair of models, heads and a token map for it, all in bfloat16, and a manifest.

Does not know: how any of them was made, or how the package around the bundle is built.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import torch

from evodraft.drafters.eagle.config import BUNDLED_HEADS
from evodraft.drafters.eagle.files import CONFIG_FILE, find_head, save_head
from evodraft.drafters.eagle.fit import check_head
from evodraft.drafters.eagle.layouts import OWN_BLOCK
from evodraft.drafters.eagle.origin import Origin
from evodraft.drafters.token_map import read_token_map, write_token_map
from evodraft.drafters.vocabulary import check_fits
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
VOCABULARY_FILE: Final = "vocabulary.json"
MODELS: Final = ("target", "draft")
SAME_MODELS: Final = "same_models_as"
HEADS: Final = tuple(BUNDLED_HEADS.values())


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


def bundle_head(source: Path, bundle: Path, name: str) -> None:
    """Write the head in `source` in bfloat16 to `bundle/name`, replacing what is there, as one of the bundle's target.

    Raises `ModelMismatchError` for the head of another target.
    """
    target = load_model(bundle / "target")
    origin, found = Origin.of(target), find_head(source)
    check_head(found.description, origin, found.place)
    head, record = found.load(origin.num_layers, dtype=torch.bfloat16), head_provenance(source)
    shutil.rmtree(bundle / name, ignore_errors=True)
    save_head(head, bundle / name, target=target, target_name=bundle.resolve().name, provenance=record)


def bundle_vocabulary(source: Path, bundle: Path) -> None:
    """Write the token map in `source` beside the bundle's target, whose ids it must have."""
    ids = read_token_map(source)
    check_fits(
        ids, json.loads((bundle / "target" / CONFIG_FILE).read_text(encoding="utf-8"))["vocab_size"], source.name
    )
    write_token_map(bundle / VOCABULARY_FILE, ids)


def head_provenance(folder: Path) -> dict[str, Any]:
    """What the config of a head in `folder` says of its making; nothing if it was not made here."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    record: dict[str, Any] = config.get(OWN_BLOCK, {}).get("provenance", {})
    return record


def bundled_provenance(folder: Path) -> dict[str, Any]:
    """The record of each model of the bundle that is in `folder`; nothing where there is none."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return {}
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {name: entry["provenance"] for name, entry in models.items()}


def write_manifest(folder: Path, provenance: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write `folder/MANIFEST.json`: hash and size of every file, provenance of each model named in `provenance`."""
    models: dict[str, Any] = {}
    for name in (*MODELS, *provenance):
        weights = folder / name / WEIGHTS_FILE
        if not weights.is_file() or name not in provenance:
            raise WeightsError(f"{weights} is missing or has no record; save the model before its manifest")
        models[name] = {"file": f"{name}/{WEIGHTS_FILE}", "provenance": dict(provenance[name])} | _record(weights)
    paths = [path for name in provenance for path in sorted((folder / name).glob("*"))]
    paths += [path for path in [folder / VOCABULARY_FILE] if path.is_file()]
    files = {path.relative_to(folder).as_posix(): _record(path) for path in paths}
    manifest = {"format": 1, "models": models, "files": files, SAME_MODELS: _with_the_same_models(folder, files)}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


def _with_the_same_models(folder: Path, files: Mapping[str, Any]) -> list[str]:
    """Hashes of earlier manifests of the bundle whose target and draft were these, file by file: what was measured
    without heads and token maps holds of it still."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return []
    old = json.loads(path.read_text(encoding="utf-8"))
    parts = [{name: r for name, r in found.items() if name.split("/")[0] in MODELS} for found in (old["files"], files)]
    return [*old.get(SAME_MODELS, []), _record(path)["sha256"]] if parts[0] == parts[1] else []


def verify_bundle(folder: Path) -> None:
    """Raise unless there is a manifest, every file it lists has its recorded hash, and heads are of the target.

    `WeightsError` for files, `ModelMismatchError` for heads.
    """
    if not (folder / MANIFEST_FILE).is_file():
        raise WeightsError(f"{folder} has no {MANIFEST_FILE}; write the bundle again")
    check_manifest(folder)
    heads = [folder / name for name in HEADS if (folder / name).is_dir()]
    if heads:
        origin = Origin.of(load_model(folder / "target"))
        for head in heads:
            check_head(find_head(head).description, origin, str(head))


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
