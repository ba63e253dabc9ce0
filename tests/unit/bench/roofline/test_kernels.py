"""Every kernel of the table reads every matrix once; what cannot run here says why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evodraft.bench.roofline import kernels
from evodraft.bench.roofline.kernels import KERNELS, last_level_cache_bytes, stacked

_AMPLE = 2**40


def _matrices(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 16), (16, 16), (48, 32), (64, 16)]
    return [torch.rand(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KERNELS)
def test_a_sweep_makes_every_product_once(name: str, dtype: torch.dtype) -> None:
    kernel, matrices = KERNELS[name], _matrices(dtype)
    if (problem := kernel.problem(matrices, _AMPLE)) is not None:
        pytest.skip(problem)
    made = kernel.prepare(matrices)()
    expected = torch.cat([matrix.sum(dim=1) for matrix in matrices]).float()
    found = torch.cat([product[0] for product in made]).float()
    torch.testing.assert_close(found.sort().values, expected.sort().values, rtol=2e-2, atol=1e-3)


def test_stacking_keeps_all_rows_and_joins_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = _matrices()
    wide, tall = stacked(matrices)
    assert wide is matrices[2]  # alone in its width: no copy
    torch.testing.assert_close(tall, torch.cat([matrices[0], matrices[1], matrices[3]]), rtol=0, atol=0)
    monkeypatch.setattr(kernels, "_STACK_BYTES", (32 + 16) * 16 * 4)
    assert [tuple(matrix.shape) for matrix in stacked(matrices)] == [(48, 32), (48, 16), (64, 16)]


def test_copies_that_do_not_fit_are_left_out() -> None:
    matrices = _matrices()
    total = sum(matrix.nbytes for matrix in matrices)
    assert KERNELS["linear"].problem(matrices, 0) is None
    assert KERNELS["linear, stacked"].problem(matrices, total) is None
    assert "GiB are free" in str(KERNELS["linear, stacked"].problem(matrices, total - 1))


@pytest.mark.parametrize("name", [name for name in KERNELS if not name.startswith("linear")])
def test_what_is_for_processors_says_so(name: str) -> None:
    assert "for processors, not for meta" in str(KERNELS[name].problem([torch.empty(4, 4, device="meta")], _AMPLE))


@pytest.mark.parametrize("name", ["prepacked", "native"])
def test_a_dtype_that_it_does_not_take_is_named(name: str) -> None:
    assert "float64" in str(KERNELS[name].problem([torch.empty(4, 4, dtype=torch.float64)], _AMPLE))


def test_the_largest_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = torch.device("cpu")
    assert last_level_cache_bytes(processor, tmp_path) is None
    for index, size in enumerate(("32K", "1024K", "32768K", "unknown")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n", encoding="utf-8")
    assert last_level_cache_bytes(processor, tmp_path) == 32 * 2**20
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=50))
    assert last_level_cache_bytes(torch.device("cuda"), tmp_path) == 50
