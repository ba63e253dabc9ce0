"""The OpenVINO worker with stand-ins for `openvino`, `openvino_genai` and `optimum`, shaped like the real ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evodraft.bench.peers.openvino import OPENVINO
from evodraft.bench.peers.workers import openvino_worker as subject
from evodraft.bench.peers.workers.openvino_worker import OpenVINORunner, converted, drafted_counts, generation_options

FP32 = subject.checked_precision("float32", ["FP32"])
FAKE_OPTIMUM = {
    "__init__.py": "",
    "intel.py": "class OVConfig:\n    def __init__(self, dtype):\n        self.dtype = dtype\n",
    "exporters/__init__.py": "",
    "exporters/openvino.py": """
from pathlib import Path
def main_export(folder, output, *, task, library_name, convert_tokenizer, ov_config):
    print("noise")
    Path(output).mkdir()
    model = (Path(folder) / "model.safetensors").read_text()
    (Path(output) / "openvino_model.xml").write_text(f"{model} {ov_config.dtype} {task} {convert_tokenizer}")
""",
}


class FakePipeline:
    """Says 7 for every prompt, in blocks that `generate` of the real one was seen to make of a batch."""

    sizes: Sequence[int] = (1, 3, 2)  # tokens that the passes decided

    def __init__(self, *loaded: Any) -> None:
        self.loaded = loaded
        self.asked: list[tuple[list[Any], list[dict[str, Any]]]] = []

    def generate(self, prompts: list[Any], configs: list[dict[str, Any]]) -> list[SimpleNamespace]:
        self.asked.append((prompts, configs))
        sizes = [size * len(prompts) for size in self.sizes]  # of all requests together, in each of them
        metrics = SimpleNamespace(
            get_ttft=lambda: SimpleNamespace(mean=0.0), raw_metrics=SimpleNamespace(m_batch_sizes=sizes)
        )
        counted = SimpleNamespace(get_num_draft_tokens=lambda: 5)
        return [
            SimpleNamespace(
                m_generation_ids=[[7] * sum(self.sizes)], perf_metrics=metrics, extended_perf_metrics=counted
            )
            for _ in prompts
        ]


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The folder of workers is on the path, as when the worker runs; the environment is an empty folder."""
    monkeypatch.syspath_prepend(str(Path(subject.__file__).parent))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    (tmp_path / "environment").mkdir()
    core = SimpleNamespace(get_property=lambda device, name: ["FP32", "BIN"])
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core, Tensor=lambda ids: ids))
    genai = SimpleNamespace(
        ContinuousBatchingPipeline=FakePipeline,
        GenerationConfig=dict,
        SchedulerConfig=SimpleNamespace,
        draft_model=lambda folder, device, **properties: (folder, device, properties),
    )
    monkeypatch.setitem(sys.modules, "openvino_genai", genai)
    monkeypatch.setattr(subject.metadata, "version", lambda name: f"{name} 1.0")
    yield
    sys.modules.pop("worker", None)


@pytest.fixture
def optimum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A package `optimum` that converts by copying, for this process and its children."""
    for name, source in FAKE_OPTIMUM.items():
        path = tmp_path / "packages" / "optimum" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "optimum"]:
        del sys.modules[name]


def model(folder: Path, weights: str = "weights") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(weights)
    return folder


def request(tmp_path: Path, mode: str, **changes: Any) -> dict[str, Any]:
    chosen = OPENVINO.modes[mode]
    return {
        "target": str(model(tmp_path / "target")),
        "draft": str(model(tmp_path / "draft", "small")) if chosen.needs_draft else None,
        "dtype": "float32",
        "threads": 2,
        "max_model_len": 64,
        "max_batch": 4,
        "options": dict(chosen.options),
        **changes,
    }


def ask(**changes: Any) -> dict[str, Any]:
    return {
        "token_ids": [5, 6],
        "max_new_tokens": 10,
        "temperature": 0.0,
        "repetition_penalty": 1.1,
        "seed": 3,
        "stop_token_ids": [0, 4],
        **changes,
    }


def runner(tmp_path: Path, mode: str) -> tuple[OpenVINORunner, FakePipeline]:
    pipeline = FakePipeline()
    genai = sys.modules["openvino_genai"]
    return OpenVINORunner(pipeline, sys.modules["openvino"], genai, request(tmp_path, mode)), pipeline


def test_greedy_asks_name_no_seed_and_sampling_asks_cut_nothing_off() -> None:
    common = {"max_new_tokens": 10, "repetition_penalty": 1.1, "eos_token_id": 0, "stop_token_ids": {0, 4}}
    assert generation_options(ask()) == {**common, "do_sample": False}
    sampled = generation_options(ask(temperature=0.7))
    assert sampled == {**common, "do_sample": True, "temperature": 0.7, "rng_seed": 3}


def test_an_ask_without_stop_ids_does_not_stop_at_the_models_own() -> None:
    options = generation_options(ask(stop_token_ids=[]))
    assert options["ignore_eos"] is True
    assert "eos_token_id" not in options


def test_plain_answers_count_their_passes(tmp_path: Path) -> None:
    runner_, pipeline = runner(tmp_path, "plain")
    pipeline.sizes = (1,) * 6
    reply = runner_.generate([ask()])
    (prompts, configs) = pipeline.asked[0]
    assert prompts[0].tolist() == [[5, 6]]
    assert configs == [generation_options(ask())]
    assert reply["answers"] == [
        {
            "token_ids": [7] * 6,
            "error": None,
            "num_draft_tokens": 0,
            "num_accepted_tokens": 0,
            "num_target_passes": 6,
            "num_rounds": 0,
        }
    ]
    assert 0 < reply["decode_s"] <= reply["request_s"]


def test_of_a_batch_only_tokens_and_times_are_told(tmp_path: Path) -> None:
    runner_, pipeline = runner(tmp_path, "draft")
    reply = runner_.generate([ask(), ask(token_ids=[8], repetition_penalty=1.0)])
    assert reply["answers"] == [{"token_ids": [7] * 6, "error": None}] * 2
    assert [config["repetition_penalty"] for config in pipeline.asked[0][1]] == [1.1, 1.0]
    assert all(config["num_assistant_tokens"] == 5 for config in pipeline.asked[0][1])


def test_prompt_lookup_tells_no_number_of_guesses(tmp_path: Path) -> None:
    runner_, pipeline = runner(tmp_path, "prompt-lookup")
    answer = runner_.generate([ask(temperature=0.7)])["answers"][0]
    assert answer == {"token_ids": [7] * 6, "error": None, "num_accepted_tokens": 3, "num_target_passes": 3}
    assert pipeline.asked[0][1][0]["max_ngram_size"] == 3


def test_a_draft_answers_at_temperature_0_alone(tmp_path: Path) -> None:
    runner_, pipeline = runner(tmp_path, "draft")
    answer = runner_.generate([ask()])["answers"][0]
    assert (answer["num_draft_tokens"], answer["num_accepted_tokens"]) == (10, 3)
    with pytest.raises(ValueError, match="temperature 0 alone.*4190"):
        runner_.generate([ask(), ask(temperature=0.7)])
    assert len(pipeline.asked) == 1


@pytest.mark.parametrize(
    ("sizes", "num_counted", "max_new_tokens", "num_drafted", "num_rounds"),
    [
        ([1], 0, 1, 0, 0),  # the pass that reads the prompt
        ([1, 1], 0, 2, 0, 0),  # the last token needs no draft
        ([1, 2], 0, 3, 1, 1),
        ([1, 3, 3], 5, 7, 7, 2),
        ([1, 5, 1], 5, 7, 5, 1),
        ([1, 3, 6, 3, 5, 6, 4], 25, 64, 30, 6),  # ended by a stop token
    ],
)
def test_counts_of_a_draft_include_its_last_round(
    sizes: list[int], num_counted: int, max_new_tokens: int, num_drafted: int, num_rounds: int
) -> None:
    counts = drafted_counts(sizes, num_counted, max_new_tokens, width=5)
    assert counts["num_draft_tokens"] == num_drafted
    assert counts["num_rounds"] == num_rounds
    assert counts["num_target_passes"] == len(sizes)
    assert counts["num_accepted_tokens"] == sum(sizes) - len(sizes) == sum(counts["accepted_per_position"])


@pytest.mark.usefixtures("optimum")
def test_loading_hands_one_precision_to_target_draft_and_caches(tmp_path: Path) -> None:
    loaded = subject.load(request(tmp_path, "draft"))
    target, scheduler, device, properties = loaded._pipeline.loaded
    draft_folder, draft_device, draft_properties = properties.pop("draft_model")
    assert (device, draft_device) == ("CPU", "CPU")
    assert properties == draft_properties == subject.device_properties(FP32, threads=2)
    assert {properties[name] for name in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION")} == {"f32"}
    assert (Path(target) / "openvino_model.xml").read_text().startswith("weights fp32 ")
    assert (Path(draft_folder) / "openvino_model.xml").read_text().startswith("small fp32 ")
    assert vars(scheduler) == {"enable_prefix_caching": False, "max_num_batched_tokens": 256}
    assert "float32" in loaded.label
    assert loaded.versions["openvino"] == "openvino 1.0"
    assert loaded.resident_bytes() > 0
    loaded.reset()
    loaded.close()


@pytest.mark.usefixtures("optimum")
def test_loading_for_prompt_lookup_asks_the_pipeline_for_it(tmp_path: Path) -> None:
    loaded = subject.load(request(tmp_path, "prompt-lookup"))
    assert loaded._pipeline.loaded[3]["prompt_lookup"] is True


@pytest.mark.parametrize(("dtype", "message"), [("float16", "float16.*float32, bfloat16"), ("bfloat16", "use float32")])
def test_a_dtype_that_would_not_be_computed_in_is_refused(tmp_path: Path, dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subject.load(request(tmp_path, "plain", dtype=dtype))


@pytest.mark.usefixtures("optimum")
def test_a_model_is_converted_once_for_each_content_and_precision(tmp_path: Path) -> None:
    source = model(tmp_path / "source")
    first = converted(source, FP32)
    (first / "mark").touch()
    assert (converted(model(tmp_path / "copy"), FP32) / "mark").is_file()
    bf16 = subject.checked_precision("bfloat16", ["BF16"])
    assert (converted(source, bf16) / "openvino_model.xml").read_text() == "weights bf16 text-generation-with-past True"
    assert not (converted(model(source, "other weights"), FP32) / "mark").exists()
    assert len(list(first.parent.iterdir())) == 3, "no unfinished folders are left"


@pytest.mark.usefixtures("optimum")
def test_conversion_exports_model_and_tokenizer(tmp_path: Path) -> None:
    subject.convert(str(model(tmp_path / "source")), str(tmp_path / "output"), "fp32")
    assert (tmp_path / "output" / "openvino_model.xml").read_text() == "weights fp32 text-generation-with-past True"


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="could not convert"):  # there is no optimum here
        converted(model(tmp_path / "source"), FP32)
    assert list((tmp_path / "environment" / "models").iterdir()) == []
