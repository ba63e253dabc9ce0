"""The words for dtypes and devices: those that this machine knows, and nothing else."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import ConfigError, UnknownOptionError
from evodraft.runtime.placement import chosen_device, chosen_dtype


@pytest.mark.parametrize(
    ("word", "meant"), [("auto", "auto"), ("bfloat16", torch.bfloat16), (torch.float64, torch.float64)]
)
def test_dtypes(word: str | torch.dtype, meant: str | torch.dtype) -> None:
    assert chosen_dtype(word) == meant


@pytest.mark.parametrize("word", ["bfloat", "int8", "load", "__class__"])
def test_a_name_of_torch_that_is_no_dtype_of_weights_is_refused(word: str) -> None:
    with pytest.raises(UnknownOptionError, match=f"unknown dtype '{word}'"):
        chosen_dtype(word)


def test_devices() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    assert chosen_device(torch.device("meta")) == torch.device("meta")
    assert chosen_device("auto") == (torch.accelerator.current_accelerator() or torch.device("cpu"))


def test_a_word_that_is_no_device() -> None:
    with pytest.raises(ConfigError, match=r"device='gpu': .*use 'auto', 'cpu' or 'cuda'"):
        chosen_device("gpu")


def test_a_device_that_this_machine_lacks() -> None:
    with pytest.raises(ConfigError, match=r"device='xla' is not here; torch sees .*cpu.*; use one of them"):
        chosen_device("xla")
