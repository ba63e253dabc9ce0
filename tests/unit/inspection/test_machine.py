"""What is read off the machine, on systems that tell and on systems that do not."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evodraft import machine
from evodraft.inspection.machine import read_machine
from evodraft.machine import software_versions
from evodraft.memory import physical_memory

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16 sse\n\nprocessor\t: 1\n"
OLD_X86 = "flags\t\t: fpu avx2\n"
ARM = "Features\t: fp asimd bf16\n"
CPU = torch.device("cpu")


def system(monkeypatch: pytest.MonkeyPatch, cpuinfo: str = "", meminfo: str = "") -> None:
    files = {Path("/proc/cpuinfo"): cpuinfo, Path("/proc/meminfo"): meminfo}
    monkeypatch.setattr(machine, "_text", files.__getitem__)


@pytest.mark.parametrize(
    ("cpuinfo", "features", "has_bfloat16"),
    [
        (X86, ("avx2", "avx512f", "avx512_bf16"), True),
        (OLD_X86, ("avx2",), False),
        (ARM, ("bf16",), True),
        ("", (), None),
    ],
)
def test_processors(
    cpuinfo: str, features: tuple[str, ...], has_bfloat16: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(monkeypatch, cpuinfo)
    found = read_machine(CPU)
    assert (found.device, found.features, found.has_bfloat16) == ("cpu", features, has_bfloat16)
    assert found.num_threads == torch.get_num_threads()


def test_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, meminfo="MemTotal:       1000 kB\nMemAvailable:    600 kB\nMemFree: 2 kB\n")
    assert read_machine(CPU).free_bytes == 600 * 1024
    system(monkeypatch)
    assert read_machine(CPU).free_bytes == physical_memory()


def test_this_machine() -> None:
    found = read_machine(CPU)
    assert 0 < found.free_bytes <= found.memory_bytes
    if Path("/proc/cpuinfo").is_file():
        assert found.has_bfloat16 is not None
        assert found.device_name


def test_other_accelerators_say_nothing_of_the_processors_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, X86)
    assert read_machine(torch.device("mps")).has_bfloat16 is None


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(
        mem_get_info=lambda device: (600, 1000),
        get_device_capability=lambda device: (9, 0),
        get_device_name=lambda device: "Some GPU",
        is_bf16_supported=lambda including_emulation: not including_emulation,
    )
    monkeypatch.setattr(torch, "cuda", told)
    found = read_machine(torch.device("cuda:1"))
    assert (found.device, found.device_name, found.features) == ("cuda:1", "Some GPU", ("sm_90",))
    assert (found.memory_bytes, found.free_bytes, found.has_bfloat16) == (1000, 600, True)


def test_the_versions_are_those_that_run() -> None:
    versions = read_machine(CPU).versions
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"system", "python", "evodraft", "torch", "transformers"}


def test_a_checkout_that_is_only_on_the_path_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert software_versions()["evodraft"] == "not installed"
