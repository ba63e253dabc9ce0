"""The vLLM worker with a stand-in for `vllm`, shaped like the real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evodraft.bench.peers.vllm import VLLM
from evodraft.bench.peers.workers import vllm_worker as subject
from evodraft.bench.peers.workers.vllm_worker import VLLMRunner, engine_environment, engine_options, sampling_options


class FakeEngine:
    """Says 7 six times for every prompt; counts three passes a request, two of them with a draft."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.asked: list[tuple[list[Any], list[dict[str, Any]]]] = []

    def generate(self, prompts: list[Any], params: list[dict[str, Any]], use_tqdm: bool) -> list[SimpleNamespace]:
        assert not use_tqdm
        self.asked.append((prompts, params))
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=(7,) * 6)], metrics=SimpleNamespace(first_token_latency=0.0)
            )
            for _ in prompts
        ]

    def get_metrics(self) -> list[SimpleNamespace]:
        num = sum(len(prompts) for prompts, _ in self.asked)
        metrics = [
            SimpleNamespace(name="vllm:num_requests_running", value=0.0),
            SimpleNamespace(name="vllm:iteration_tokens_total", count=3 * num, sum=9.0, buckets={}),
        ]
        if self.options.get("speculative_config"):
            metrics += [
                SimpleNamespace(name="vllm:spec_decode_num_drafts", value=2 * num),
                SimpleNamespace(name="vllm:spec_decode_num_draft_tokens", value=10 * num),
                SimpleNamespace(name="vllm:spec_decode_num_accepted_tokens", value=3 * num),
                SimpleNamespace(name="vllm:spec_decode_num_accepted_tokens_per_pos", values=[2 * num, num, 0, 0, 0]),
            ]
        return metrics


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The folder of workers is on the path, as when the worker runs; variables set meanwhile are put back."""
    monkeypatch.syspath_prepend(str(Path(subject.__file__).parent))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeEngine, SamplingParams=dict))
    monkeypatch.setattr(subject.metadata, "version", lambda name: "1.0")
    yield
    sys.modules.pop("worker", None)


def request(mode: str, **changes: Any) -> dict[str, Any]:
    chosen = VLLM.modes[mode]
    return {
        "target": "target",
        "draft": "draft" if chosen.needs_draft else None,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
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


def test_sampling_leaves_the_models_own_end_and_the_text_out() -> None:
    assert sampling_options(ask(temperature=0.7)) == {
        "max_tokens": 10,
        "temperature": 0.7,
        "repetition_penalty": 1.1,
        "seed": 3,
        "stop_token_ids": [0, 4],
        "ignore_eos": True,
        "detokenize": False,
    }


@pytest.mark.parametrize(
    ("mode", "is_eager", "guesses"),
    [
        ("plain", True, None),
        ("plain-compiled", False, None),
        ("ngram", True, dict(VLLM.modes["ngram"].options["speculative_config"])),
        ("draft", True, {"method": "draft_model", "num_speculative_tokens": 5, "model": "draft"}),
    ],
)
def test_modes_become_options_of_the_engine(mode: str, is_eager: bool, guesses: dict[str, Any] | None) -> None:
    options = engine_options(request(mode, dtype="bfloat16"))
    assert options["enforce_eager"] is is_eager
    assert options["speculative_config"] == guesses
    assert (options["model"], options["dtype"], options["max_num_seqs"]) == ("target", "bfloat16", 4)
    assert options["enable_prefix_caching"] is False
    assert options["max_num_batched_tokens"] >= options["max_model_len"]


def test_a_long_prompt_is_read_in_one_pass() -> None:
    assert engine_options(request("plain", max_model_len=9000))["max_num_batched_tokens"] == 9000


def test_threads_are_set_before_vllm_is_imported(tmp_path: Path) -> None:
    variables = engine_environment(2, tmp_path)
    assert (variables["OMP_NUM_THREADS"], variables["VLLM_CPU_OMP_THREADS_BIND"]) == ("2", "nobind")
    loaded = subject.load(request("plain"))
    assert os.environ["OMP_NUM_THREADS"] == str(torch.get_num_threads())
    assert os.environ["VLLM_CACHE_ROOT"] == str(tmp_path / "cache")
    assert loaded.label == "third-party build (vllm-cpu 1.0)"
    assert loaded.resident_bytes() > 0
    loaded.reset()
    loaded.close()


def test_another_number_of_threads_than_asked_for_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="instead of 77"):
        subject.load(request("plain", threads=77))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="'int8' is not one of"):
        subject.load(request("plain", dtype="int8"))


def test_a_draft_is_counted_from_request_to_request() -> None:
    runner = subject.load(request("draft"))
    runner.generate([ask()])
    reply = runner.generate([ask(token_ids=(8,))])
    assert runner._engine.asked[1] == ([{"prompt_token_ids": [8]}], [sampling_options(ask())])
    assert reply["answers"] == [
        {
            "token_ids": [7] * 6,
            "error": None,
            "num_draft_tokens": 10,
            "num_accepted_tokens": 3,
            "num_rounds": 2,
            "num_target_passes": 3,
            "accepted_per_position": [2, 1, 0, 0, 0],
        }
    ]
    assert 0 < reply["decode_s"] <= reply["request_s"]


def test_plain_decoding_counts_no_drafts() -> None:
    answer = subject.load(request("plain")).generate([ask(temperature=0.7)])["answers"][0]
    assert (answer["num_draft_tokens"], answer["num_rounds"], answer["num_target_passes"]) == (0, 0, 3)
    assert answer["accepted_per_position"] == []


def test_of_a_batch_only_tokens_and_times_are_told() -> None:
    runner = subject.load(request("ngram"))
    reply = runner.generate([ask(), ask(seed=4)])
    assert reply["answers"] == [{"token_ids": [7] * 6, "error": None}] * 2
    assert [params["seed"] for params in runner._engine.asked[0][1]] == [3, 4]


@pytest.mark.parametrize("mode", ["ngram", "draft"])
def test_guesses_are_refused_above_temperature_0(mode: str) -> None:
    runner = subject.load(request(mode))
    with pytest.raises(ValueError, match="temperature 0 alone.*55005"):
        runner.generate([ask(), ask(temperature=0.7)])
    assert runner._engine.asked == []


def test_no_decoding_time_of_prompts_too_long_for_one_pass() -> None:
    runner = VLLMRunner(FakeEngine(), dict, is_speculative=False, chunk_tokens=3)
    assert runner.generate([ask(), ask()])["decode_s"] is None
    assert runner.generate([ask()])["decode_s"] is not None
