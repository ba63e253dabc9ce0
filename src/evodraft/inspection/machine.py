"""What this machine has: memory, processor or accelerator, and instructions for half-precision matrices."""

from __future__ import annotations

from typing import Final

import torch

from evodraft.inspection.report import MachineReport
from evodraft.machine import free_memory, processor_flags, processor_name, software_versions
from evodraft.memory import physical_memory

_MATRIX_FEATURES: Final = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "bf16", "svebf16")
_BFLOAT16_FEATURES: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


def read_machine(device: torch.device) -> MachineReport:
    """The machine as seen from a device."""
    return _gpu(device) if device.type == "cuda" else _processor(device)


def _gpu(device: torch.device) -> MachineReport:
    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    return MachineReport(
        device=str(device),
        device_name=torch.cuda.get_device_name(device),
        memory_bytes=total,
        free_bytes=free,
        num_threads=torch.get_num_threads(),
        features=(f"sm_{major}{minor}",),
        has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        versions=software_versions(),
    )


def _processor(device: torch.device) -> MachineReport:
    flags = processor_flags()
    memory = physical_memory()
    return MachineReport(
        device=str(device),
        device_name=processor_name(),
        memory_bytes=memory,
        free_bytes=free_memory() or memory,
        num_threads=torch.get_num_threads(),
        features=tuple(name for name in _MATRIX_FEATURES if name in flags),
        has_bfloat16=bool(flags & _BFLOAT16_FEATURES) if flags and device.type == "cpu" else None,
        versions=software_versions(),
    )
