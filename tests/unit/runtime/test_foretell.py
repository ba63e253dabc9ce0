"""What is foretold of a model that is not loaded is what choosing says when it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evodraft.errors import UnsupportedModelError
from evodraft.runtime import choose
from evodraft.runtime.choose import RUNTIMES, RuntimeOptions, RuntimeReport, choose_runtime
from evodraft.runtime.foretell import REQUIRED, UNTRIED, Foretold, foretell_runtime
from evodraft.runtime.load import empty_model
from evodraft.runtime.native import build, problem
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import TINY_FAMILIES, tiny_model

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FUSED = {"llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"}
LARGE = 2**50


def foretold(
    model: Any, options: RuntimeOptions | None = None, device: torch.device = CPU, pending_bytes: int = 0
) -> Foretold:
    empty = empty_model(model.config, model.dtype)
    return foretell_runtime(empty, ModelFacts.of(empty), device, options, pending_bytes=pending_bytes)


def outcome(ask: Any) -> RuntimeReport | str:
    try:
        report: RuntimeReport = ask().report
    except UnsupportedModelError as error:
        return str(error)
    return report


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, dtype) for family in TINY_FAMILIES for dtype in DTYPES if family in FUSED or dtype != torch.float64],
    ids=str,
)
def test_foretold_and_chosen_agree(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family).to(dtype)
    chosen, expected = choose_runtime(model).report, foretold(model).report
    assert (expected.name, expected.about, expected.passed_over) == (chosen.name, chosen.about, chosen.passed_over)
    assert expected.numerics in (chosen.numerics, UNTRIED)
    assert (expected.numerics == UNTRIED) is (chosen.name != "transformers")
    assert (chosen.name == "transformers") is (family not in FUSED)


@pytest.mark.parametrize("runtime", ["auto", *RUNTIMES])
@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_they_agree_on_what_is_asked_for(family: str, runtime: str, dtype: torch.dtype) -> None:
    """Errors too, word by word; `fast` is not tried, so that nothing is left open."""
    model, options = tiny_model(family).to(dtype), RuntimeOptions(runtime, "fast")
    expected = outcome(lambda: foretold(model, options))
    assert expected == outcome(lambda: choose_runtime(model, options))
    assert isinstance(expected, str) or expected.numerics.reason == "you asked for it"


def test_they_agree_that_the_native_step_is_invariant() -> None:
    model, options = tiny_model("llama").bfloat16(), RuntimeOptions(numerics="invariant")
    chosen, expected = choose_runtime(model, options).report, foretold(model, options).report
    assert (chosen.name, chosen.numerics.name) == (expected.name, expected.numerics.name) == ("native", "invariant")
    assert expected.numerics == REQUIRED


def test_they_agree_that_modules_are_not_invariant() -> None:
    model, options = tiny_model("gemma"), RuntimeOptions(numerics="invariant")
    expected = outcome(lambda: foretold(model, options))
    assert expected == outcome(lambda: choose_runtime(model, options))
    assert "transformers: its numerics are not invariant: transformers' modules run kernels" in str(expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu"}, "which is not known here"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "rope type 'dynamic'"),
        ({"attention_bias": True, "mlp_bias": True}, None),
        ({"tie_word_embeddings": True}, None),
    ],
)
def test_they_agree_on_what_a_config_says(changes: dict[str, Any], reason: str | None) -> None:
    model = tiny_model("llama", **changes)
    chosen, expected = choose_runtime(model).report, foretold(model).report
    assert (expected.name, expected.passed_over) == (chosen.name, chosen.passed_over)
    assert [over.name for over in expected.passed_over] == (["native", "packed", "eager"] if reason else [])
    assert all(reason in over.reason for over in expected.passed_over if reason)


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    model = tiny_model("llama")
    chosen, expected = choose_runtime(model).report, foretold(model)
    assert expected.report.passed_over == chosen.passed_over
    assert expected.report.passed_over[0].reason == (
        "there is no C++ compiler here (c++, g++, clang++), "
        "and what was compiled before is found by the compiler's version"
    )
    assert expected.report.name == chosen.name == "packed"
    assert expected.outlook == ("compared with the transformers module at start",)


def test_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**34, 2**35))
    report = foretold(tiny_model("llama").bfloat16(), device=torch.device("cuda")).report
    assert report.name == "eager"
    assert report.passed_over == (
        ("native", "the native step is for processors, not for cuda"),
        ("packed", "oneDNN's order is for processors, not for cuda"),
    )


def test_half_precision_is_not_for_the_native_step() -> None:
    report = foretold(tiny_model("llama").half()).report
    assert report.passed_over[0] == ("native", "the native step computes bfloat16 and float32, not float16")


def test_what_will_be_taken_first_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "free_memory", lambda: LARGE)
    model, options = tiny_model("llama"), RuntimeOptions("packed")
    assert foretold(model, options).report.name == "packed"
    with pytest.raises(UnsupportedModelError, match=r"it copies 0\.0 GiB of weights and 0\.0 GiB are free"):
        foretold(model, options, pending_bytes=LARGE)
    monkeypatch.setattr(choose, "free_memory", lambda: None)
    assert foretold(model, options, pending_bytes=LARGE).report.name == "packed"


def test_quantised_weights() -> None:
    model = tiny_model("llama")
    model.config.quantization_config = {"quant_method": "gptq"}
    empty = tiny_model("llama").to("meta")
    empty.config = model.config
    report = foretell_runtime(empty, ModelFacts.of(empty), CPU).report
    assert report.name == "transformers"
    assert all(over.reason.startswith("its weights are quantised") for over in report.passed_over)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_they_agree_on_copies(family: str, runtime: str) -> None:
    model, options = tiny_model(family), RuntimeOptions(runtime, "fast")
    assert foretold(model, options).copied_bytes == choose_runtime(model, options).copied_bytes


def test_the_model_stays_as_it_was() -> None:
    empty = tiny_model("llama").to("meta")
    names = [name for name, _ in empty.named_parameters()]
    foretell_runtime(empty, ModelFacts.of(empty), CPU)
    assert [name for name, _ in empty.named_parameters()] == names


@pytest.mark.parametrize(
    ("dtype", "flags", "words"),
    [
        (torch.float32, {"avx512_bf16"}, None),
        (torch.bfloat16, {"avx512_bf16"}, "products by avx512_bf16"),
        (torch.bfloat16, {"avx2"}, "products in float32, for want of avx512_bf16"),
    ],
)
def test_the_outlook_of_the_native_step(
    dtype: torch.dtype, flags: set[str], words: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is compiled by asking."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(problem, "processor_flags", lambda: frozenset(flags))
    state, *others = foretold(tiny_model("llama").to(dtype)).outlook
    assert state == f"to be compiled once by {' '.join(build._find_compiler())}, which takes seconds"
    assert others == [*([words] if words else []), "compared with the transformers module at start"]
    assert not list(tmp_path.rglob("*.so"))


def test_what_was_compiled_before_is_known() -> None:
    build.build_library()
    assert foretold(tiny_model("llama")).outlook[0] == "compiled already"
