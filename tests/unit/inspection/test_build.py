"""The whole report: what it foretells is what loading does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evodraft import LLM
from evodraft.assemble import LoadOptions
from evodraft.config import EngineConfig
from evodraft.errors import CapacityError, UnknownOptionError, UnsupportedModelError, WeightsError
from evodraft.inspection import Report, build, inspect_target, try_out
from evodraft.inspection.report import MachineReport
from evodraft.runtime.choose import runtime_of
from evodraft.testing.pairs import tiny_pair
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

GIB = 2**30


def machine(**changes: Any) -> MachineReport:
    known = MachineReport("cpu", "Some CPU", 64 * GIB, 48 * GIB, 4, ("avx2",), True, {"torch": "2"})
    return replace(known, **changes)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a target and of a draft."""
    made = tiny_pair("llama")
    folders = tmp_path / "target", tmp_path / "draft"
    for folder, model in zip(folders, (made.target, made.draft), strict=True):
        model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    return folders


def look(target: Path | str, drafter: str | None = "auto", dtype: str = "auto", **limits: Any) -> Report:
    return inspect_target(target, drafter, LoadOptions(device="cpu", dtype=dtype), EngineConfig(**limits))


@pytest.mark.parametrize("limits", [{}, {"max_batch": 2, "kv_cache_gib": 1e-3}, {"max_model_len": 50}])
@pytest.mark.parametrize("with_draft", [True, False])
def test_the_memory_plan_is_the_engines(pair: tuple[Path, Path], limits: dict[str, Any], with_draft: bool) -> None:
    target, draft = pair
    drafter = f"model:{draft}" if with_draft else "ngram"
    memory = look(target, drafter, **limits).memory
    assert memory is not None
    with LLM.from_pretrained(target, drafter=drafter, device="cpu", **limits) as llm:
        assert memory.max_model_len == llm.engine.target.decoder.max_length
        assert memory.cache_budget_tokens == llm.engine.cache_tokens
    assert memory.cache_bytes <= memory.cache_budget_bytes
    assert memory.needed_bytes == memory.weight_bytes + memory.cache_bytes
    assert memory.is_enough


def test_the_line_to_run_says_what_was_asked(pair: tuple[Path, Path]) -> None:
    target, draft = pair
    report = look(target, f"model:{draft}", "float32", max_batch=2, max_model_len=64)
    assert report.python == (
        f"LLM.from_pretrained({str(target)!r}, drafter='model:{draft}', device='cpu', dtype='float32', max_batch=2, "
        "max_model_len=64)"
    )
    llm = eval(report.python, {"LLM": LLM})
    assert llm.engine.target.decoder.max_length == 64
    assert inspect_target(str(target)).python == f"LLM.from_pretrained({str(target)!r})"
    given = inspect_target(target, None, LoadOptions(dtype=torch.bfloat16))
    assert given.python == f"LLM.from_pretrained({str(target)!r}, drafter=None, dtype='bfloat16')"


def test_the_demo(bundle: Path) -> None:
    report = look("demo")
    assert report.can_run
    assert (report.target.name, report.drafter.name) == (str(bundle / "target"), "model")
    assert report.runtime is not None
    assert report.drafter.runtime is not None
    assert (report.runtime.name, report.drafter.runtime.name, report.drafter.runtime.numerics) == (
        "native",
        "native",
        None,
    )


def test_reports_are_plain_data(pair: tuple[Path, Path]) -> None:
    report = look(pair[0])
    document = json.loads(json.dumps(asdict(report)))
    assert document["target"]["model_type"] == "llama"
    assert document["runtime"]["numerics"]["name"] == "untried"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("drafter", ["model", "ngram"])
def test_the_runtimes_are_those_of_the_engine(pair: tuple[Path, Path], dtype: str, drafter: str) -> None:
    target, draft = pair
    name = f"model:{draft}" if drafter == "model" else drafter
    report, loaded = look(target, name, dtype), try_out(target, name, LoadOptions(device="cpu", dtype=dtype))
    for told, found in ((report.runtime, loaded.runtime), (report.drafter.runtime, loaded.draft_runtime)):
        assert (told is None) is (found is None)
        if told is not None and found is not None:
            assert (told.name, told.passed_over) == (found.name, found.passed_over)
            assert told.why.startswith(found.why)
    assert (loaded.draft_runtime is None) is (drafter == "ngram")


def test_copies_take_memory_too(pair: tuple[Path, Path]) -> None:
    target, draft = pair
    for drafter in ("ngram", f"model:{draft}"):
        reading, copying = (
            inspect_target(target, drafter, LoadOptions("cpu", "float32", runtime)).memory
            for runtime in ("native", "packed")
        )
        assert reading is not None
        assert copying is not None
        with LLM.from_pretrained(target, drafter=drafter, device="cpu", dtype="float32", runtime="packed") as llm:
            decoders = (llm.engine.target.decoder, getattr(llm.engine.drafter, "decoder", None))
            copied = sum(runtime.copied_bytes for runtime in map(runtime_of, decoders) if runtime is not None)
        assert copied > 0
        assert copying.weight_bytes == reading.weight_bytes + copied


def numerics(report: Report) -> tuple[str, str]:
    assert report.runtime is not None
    assert report.runtime.numerics is not None
    return report.runtime.numerics.name, report.runtime.numerics.why


def asking(target: Path, word: str, runtime: str = "auto", dtype: str = "bfloat16") -> Report:
    return inspect_target(target, "ngram", LoadOptions("cpu", dtype, runtime, word))


def test_numerics_promise_no_more_than_is_tested(pair: tuple[Path, Path]) -> None:
    name, why = numerics(asking(pair[0], "auto"))
    assert name == "untried"
    assert "if all bits are equal, greedy and coupled outputs are the same token by token" in why
    assert "if not, in bfloat16 a pass over several tokens can round differently" in why
    assert numerics(asking(pair[0], "auto", dtype="float32"))[1].endswith("which run in float32")
    name, why = numerics(asking(pair[0], "fast"))
    assert (name, why.partition("; ")[0]) == ("fast", "you asked for it")
    assert "in bfloat16 a pass over several tokens can round differently" in why
    name, why = numerics(asking(pair[0], "invariant"))
    assert name == "invariant"
    assert why.endswith("with and without drafts, in any batch")
    assert numerics(asking(pair[0], "auto", "transformers"))[0] == "fast"


def test_loading_says_what_came_of_the_test_of_numerics(pair: tuple[Path, Path]) -> None:
    loaded = try_out(pair[0], "ngram", LoadOptions("cpu", "bfloat16"))
    assert loaded.runtime is not None
    assert loaded.runtime.numerics is not None
    assert loaded.runtime.numerics.name == "invariant"
    assert "computed the same bits at start; greedy and coupled outputs are the same" in loaded.runtime.numerics.why
    assert loaded.num_equal_tokens == loaded.num_tokens


def test_what_no_runtime_can_do_is_a_problem_in_the_engines_words(pair: tuple[Path, Path]) -> None:
    report = asking(pair[0], "invariant", "transformers")
    [problem] = report.problems
    assert (report.can_run, report.runtime) == (False, None)
    with pytest.raises(UnsupportedModelError) as raised:
        LLM.from_pretrained(
            pair[0], drafter="ngram", device="cpu", dtype="bfloat16", runtime="transformers", numerics="invariant"
        )
    assert problem == str(raised.value)


def test_a_draft_that_no_runtime_of_the_name_decodes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = pair[0]
    tiny_model("gemma", vocab_size=264).save_pretrained(tmp_path / "gemma")
    byte_tokenizer().save_pretrained(tmp_path / "gemma")
    draft = f"model:{tmp_path / 'gemma'}"
    how = LoadOptions("cpu", "float32", "eager")
    report = inspect_target(target, draft, how)
    assert report.drafter.runtime is None
    assert any("model type 'gemma' is none of" in problem for problem in report.problems)
    with pytest.raises(UnsupportedModelError, match="model type 'gemma' is none of"):
        try_out(target, draft, how)


def test_the_line_to_run_names_runtime_and_numerics(pair: tuple[Path, Path]) -> None:
    python = asking(pair[0], "fast", "packed").python
    assert python.endswith("device='cpu', dtype='bfloat16', runtime='packed', numerics='fast')")
    runtime = eval(python, {"LLM": LLM}).runtime
    assert (runtime.name, runtime.numerics) == ("packed", ("fast", "you asked for it"))


def test_a_large_model_on_a_small_machine(shaped: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shaped("llama-3.1-8b")
    monkeypatch.setattr(build, "read_machine", lambda device: machine(memory_bytes=8 * GIB))
    report = look(folder, "ngram")
    assert not report.can_run
    assert report.memory is None
    assert "the weights take 15.0 GiB and cpu has 8.0 GiB; take a smaller dtype" in report.problems[1]


def test_a_large_model_on_a_machine_that_is_busy(shaped: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "read_machine", lambda device: machine(free_bytes=16 * GIB))
    report = look(shaped("llama-3.1-8b"), "ngram", kv_cache_gib=8.0)
    assert report.memory is not None
    assert (report.memory.max_model_len, report.memory.is_enough) == (65536, False)  # 8 GiB / 128 KiB
    assert [warning.partition(":")[0].partition(";")[0] for warning in report.warnings] == [
        "23.0 GiB may be needed and 16.0 GiB are free",
        "sequences are limited to 65536 of the model's 131072 tokens by memory",
        "of sequences of 65536 tokens, the caches hold 1 at once, and max_batch is 8",
    ]


@pytest.mark.parametrize(("free", "can_run"), [(40 * GIB, True), (15 * GIB, True), (14 * GIB, False)])
def test_a_gpu(shaped: Callable[..., Path], free: int, can_run: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are counted before they are there; what other programs hold is not free."""
    total = 80 * GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    gpu = machine(device="cuda", memory_bytes=total, free_bytes=free)
    monkeypatch.setattr(build, "read_machine", lambda device: gpu)
    monkeypatch.setattr(build, "chosen_device", lambda device: torch.device("cuda"))
    report = inspect_target(
        shaped("llama-3.1-8b"), "ngram", None, EngineConfig(max_batch=1, gpu_memory_utilization=1.0)
    )
    missing_files, *others = report.problems
    assert "holds no weights" in missing_files
    assert (others == []) is can_run
    if report.memory is not None:
        assert report.memory.cache_budget_bytes == free - report.memory.weight_bytes


def test_what_does_not_fit_is_a_problem_in_the_engines_words(pair: tuple[Path, Path]) -> None:
    report = look(pair[0], "ngram", max_model_len=1000)
    assert report.problems == ("max_model_len=1000 exceeds the model's context of 256; lower it",)
    with pytest.raises(CapacityError, match="max_model_len=1000 exceeds the model's context of 256; lower it"):
        LLM.from_pretrained(pair[0], drafter="ngram", max_model_len=1000)


def test_what_cannot_be_decoded(tmp_path: Path) -> None:
    sizes = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    report = look(tmp_path)
    assert not report.can_run
    assert (report.memory, report.runtime, report.drafter.name) == (None, None, "ngram")


def test_a_draft_that_cannot_be_decoded(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "mamba"
    folder.mkdir()
    sizes = {"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 264}
    (folder / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    report = look(pair[0], f"model:{folder}")
    assert report.memory is None
    assert "'mamba' keeps a recurrent state" in report.problems[0]


@pytest.mark.parametrize(
    ("dtype", "has_bfloat16", "words"),
    [
        ("bfloat16", False, "Some CPU has no instructions for bfloat16"),
        ("bfloat16", True, None),
        ("bfloat16", None, None),
        ("float16", True, "float16 is slow on most processors"),
        ("float32", False, None),
    ],
)
def test_dtypes_that_a_machine_is_not_made_for(
    pair: tuple[Path, Path],
    dtype: str,
    has_bfloat16: bool | None,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "read_machine", lambda device: machine(has_bfloat16=has_bfloat16))
    warnings = look(pair[0], "ngram", dtype).warnings
    assert [warning.startswith(words or "") for warning in warnings] == ([True] if words else [])


def test_mistakes_are_errors_and_no_reports(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        look(tmp_path / "nowhere")
    with pytest.raises(UnknownOptionError, match="numerics mode"):
        LoadOptions(numerics="exact")


def test_trying_it_out(pair: tuple[Path, Path]) -> None:
    target, draft = pair
    how, limits = LoadOptions(device="cpu"), EngineConfig(max_batch=1)
    loaded = try_out(target, f"model:{draft}", how, limits)
    assert (loaded.drafter, loaded.max_model_len) == ("ModelDrafter", 256)
    assert (loaded.num_tokens, loaded.num_equal_tokens) == (16, 16)
    assert 0 < loaded.acceptance_rate <= 1
    assert try_out(target, None, how, limits).drafter is None


def test_a_difference_is_counted(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tie in bfloat16 would do it: the third token is another one."""
    generate = LLM.generate

    def rounded(self: LLM, *args: Any, speculative: bool = True, **options: Any) -> Any:
        said = generate(self, *args, speculative=speculative, **options)
        changed = (*said.token_ids[:2], said.token_ids[2] + 1, *said.token_ids[3:])
        return replace(said, token_ids=changed) if speculative else said

    monkeypatch.setattr(LLM, "generate", rounded)
    assert try_out(pair[0], "ngram", LoadOptions(device="cpu")).num_equal_tokens == 2
