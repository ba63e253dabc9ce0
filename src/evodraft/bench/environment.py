"""Under what a benchmark ran: model, machine. Measures nothing."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from evodraft.assemble import DEMO, demo_folder
from evodraft.bench.result import MachineRecord, ModelRecord
from evodraft.inspection.machine import read_machine
from evodraft.machine import processor_name
from evodraft.memory import physical_memory
from evodraft.runtime.integrity import MANIFEST_FILE, record_of
from evodraft.runtime.load import local_folder

if TYPE_CHECKING:
    import torch

    from evodraft.assemble import LoadedTarget

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def describe_machine(device: torch.device) -> MachineRecord:
    """The machine as seen from the target's device."""
    report = read_machine(device)
    return MachineRecord(
        processor=processor_name(),
        features=report.features,
        num_cores=os.cpu_count() or 1,
        threads=report.num_threads,
        accelerator=None if device.type == "cpu" else report.device_name,
        memory_gib=round(physical_memory() / 2**30, 1),
    )


def describe_model(name: str, target: LoadedTarget, synthetic: str | None = None) -> ModelRecord:
    """Which target it is, down to its weights where they are files on this disk; a hub model by its commit."""
    commit = getattr(target.model.config, "_commit_hash", None)
    is_hub = synthetic is None and name != DEMO and local_folder(name) is None
    hub_name = f"{name}@{commit}" if commit else name
    return ModelRecord(
        name=hub_name if is_hub else os.path.basename(os.path.abspath(name)),
        sha256=None if is_hub or synthetic is not None else weights_sha256(name),
        num_parameters=sum(parameter.numel() for parameter in target.model.parameters()),
        dtype=str(target.model.dtype).removeprefix("torch."),
        synthetic=synthetic,
    )


def weights_sha256(name: str) -> str:
    """The identity of a model on this disk: of the demo its manifest's hash, else one of names and hashes of weights.

    Raises WeightsError if the demo is not installed or `name` is no folder of a model.
    """
    if name == DEMO and (demo_folder() / MANIFEST_FILE).is_file():
        return bundle_sha256()
    folder = demo_folder() / "target" if name == DEMO else local_folder(name)
    files = sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern)) if folder is not None else []
    digest = hashlib.sha256()
    for file in files:
        record = record_of(file)
        digest.update(f"{file.name} {record.sha256 if record else ''}\n".encode())
    return digest.hexdigest()


def bundle_sha256() -> str:
    """SHA-256 of the manifest of the demo bundle, which holds the hashes of all its files."""
    return hashlib.sha256((demo_folder() / MANIFEST_FILE).read_bytes()).hexdigest()
