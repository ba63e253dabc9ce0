"""What the words for a dtype and a device mean on this machine. Does not know models."""

from __future__ import annotations

from typing import Final

import torch

from evodraft.errors import ConfigError, UnknownOptionError

_DTYPES: Final = ("auto", "bfloat16", "float16", "float32", "float64")


def chosen_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The dtype, or "auto" for the checkpoint's. Raises UnknownOptionError otherwise."""
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype not in _DTYPES:
        raise UnknownOptionError("dtype", dtype, _DTYPES)
    found: torch.dtype = getattr(torch, dtype)
    return found


def chosen_device(device: str | torch.device) -> torch.device:
    """The device, which exists. Raises ConfigError otherwise."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device={device!r}: {reason}; use 'auto', 'cpu' or 'cuda'") from error
    here = {"cpu", "meta"} | ({accelerator.type} if accelerator else set())
    if found.type not in here:
        raise ConfigError(
            f"device={device!r} is not here; torch sees {', '.join(sorted(here - {'meta'}))}; use one of them"
        )
    return found
