"""The worker of llama.cpp: what it asks llama-server, and what it makes of the replies."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evodraft.bench.peers.llama_cpp import LLAMA_CPP
from evodraft.bench.peers.workers import llama_cpp_server
from evodraft.bench.peers.workers.llama_cpp_server import Counters
from evodraft.bench.peers.workers.llama_cpp_worker import (
    LlamaCppRunner,
    answer,
    completion_request,
    decode_seconds,
    load,
    server_arguments,
    speculative_counts,
)

# recorded, shortened: greedy, stopped by the second of two end ids
REPLY = {
    "content": "t1526t2065t5",
    "tokens": [1526, 2065, 5, 4],
    "stop_type": "eos",
    "truncated": False,
    "timings": {"cache_n": 0, "prompt_n": 5, "prompt_ms": 18.203, "predicted_n": 4, "predicted_ms": 35.91},
}
OUT_OF_CONTEXT = {"error": {"code": 400, "message": "request (591 tokens) exceeds the available context size"}}


def request_for(mode: str, **changes: Any) -> dict[str, Any]:
    known = LLAMA_CPP.modes[mode]
    request = {
        "target": "/models/target",
        "draft": "/models/draft" if known.needs_draft else None,
        "mode": mode,
        "dtype": "bfloat16",
        "threads": 2,
        "eos_token_ids": [0, 4],
        "max_model_len": 512,
        "max_batch": known.max_batch,
        "options": dict(known.options),
    }
    return request | changes


def ask(*token_ids: int, **changes: Any) -> dict[str, Any]:
    fields = {"max_new_tokens": 8, "temperature": 0.7, "repetition_penalty": 1.1, "seed": 7, "stop_token_ids": [4, 0]}
    return {"token_ids": list(token_ids), **fields, **changes}


@pytest.fixture
def loaded(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LlamaCppRunner]]:
    """`load` as it runs in the peer's environment, with the stand-in for llama-server and no conversion."""
    runners: list[LlamaCppRunner] = []

    def converted(folder: Path, dtype: str, eos_token_ids: list[int], cache: Path) -> Path:
        assert (dtype, eos_token_ids, cache) == ("bfloat16", [0, 4], program.parents[1] / "gguf")
        return tmp_path / f"{folder.name}.gguf"

    def start(mode: str, **changes: Any) -> LlamaCppRunner:
        runners.append(load(request_for(mode, **changes)))
        return runners[-1]

    monkeypatch.setattr(sys, "prefix", str(program.parents[1]))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name}-version")
    monkeypatch.setitem(sys.modules, "gguf_conversion", SimpleNamespace(converted=converted))
    monkeypatch.setitem(sys.modules, "llama_cpp_server", llama_cpp_server)
    yield start
    for runner in runners:
        runner.close()


def test_plain_answers_come_from_the_server_with_its_times(loaded: Callable[..., LlamaCppRunner]) -> None:
    runner = loaded("plain")
    assert runner.versions == {"llama.cpp": "0.5.0-dev (build 0, commit fake)", "gguf": "gguf-version"}
    assert "cache in f16" in runner.label
    runner.reset()
    told = runner.generate([ask(5, 6, 8), ask(9, 10, 11, seed=2**32)])
    assert [answered["token_ids"] for answered in told["answers"]] == [[1526, 7, 5, 6, 8, 4], [1526, 1, 9, 10, 11, 4]]
    assert [answered["num_target_passes"] for answered in told["answers"]] == [6, 6]
    assert [answered["num_rounds"] for answered in told["answers"]] == [0, 0]
    assert told["request_s"] == pytest.approx(0.160883)
    assert told["decode_s"] == pytest.approx(0.139758 * 6 / 5)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_is_that_of_the_server(loaded: Callable[..., LlamaCppRunner]) -> None:
    assert loaded("plain").resident_bytes() > 1 << 20


def test_a_drafting_mode_tells_rounds_passes_and_positions(loaded: Callable[..., LlamaCppRunner]) -> None:
    runner = loaded("draft")
    for _ in range(2):  # counters of the second answer do not hold those of the first
        answered = runner.generate([ask(5, 6, 8)])["answers"][0]
        assert answered["num_draft_tokens"] == 12
        assert answered["num_accepted_tokens"] == 1
        assert answered["num_target_passes"] == 5
        assert answered["num_rounds"] == 4
        assert answered["accepted_per_position"] == [1]


def test_a_fault_stands_in_its_answer_and_spares_the_others(loaded: Callable[..., LlamaCppRunner]) -> None:
    told = loaded("plain").generate(
        [ask(99), ask(5, 6, 8), ask(), ask(5, max_new_tokens=512), ask(5, max_new_tokens=400)]
    )
    errors = [answered["error"] for answered in told["answers"]]
    assert errors[0] == "Prompt contains invalid tokens"
    assert errors[1] is None
    assert errors[2] == "a prompt of 0 tokens and 8 new ones: 1 to 512 together fit; raise max_model_len"
    assert errors[3] == "a prompt of 1 tokens and 512 new ones: 1 to 512 together fit; raise max_model_len"
    assert errors[4] == "llama-server stopped after 4 tokens: limit"
    assert all(answered["token_ids"] == [] for answered in told["answers"] if answered["error"])


def test_other_stop_ids_than_loaded_are_refused(loaded: Callable[..., LlamaCppRunner]) -> None:
    told = loaded("ngram").generate([ask(5, stop_token_ids=[])])
    assert told == {
        "request_s": 0.0,
        "decode_s": None,
        "answers": [
            {"token_ids": [], "error": "llama-server stops at the ids it was loaded with, [0, 4], not at []"},
        ],
    }


def test_an_unknown_dtype_is_refused(loaded: Callable[..., LlamaCppRunner]) -> None:
    with pytest.raises(ValueError, match="'int4' is not one of float32, bfloat16, float16"):
        loaded("plain", dtype="int4")


def test_a_draft_that_the_server_does_not_use_is_an_error(loaded: Callable[..., LlamaCppRunner]) -> None:
    with pytest.raises(ValueError, match="does not speculate .* same vocabulary"):
        loaded("draft", draft="/models/other")


def test_without_a_server_the_environment_is_not_complete(
    loaded: Callable[..., LlamaCppRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="llama-server; install the peer again"):
        loaded("plain")


def test_the_server_is_started_with_the_sizes_of_the_request() -> None:
    arguments = server_arguments(request_for("plain"), [Path("t.gguf")])
    options = dict(itertools.pairwise(arguments))
    assert options["--model"] == "t.gguf"
    assert options["--threads"] == options["--threads-batch"] == "2"
    assert options["--parallel"] == "8"
    assert options["--ctx-size"] == str(8 * 512), "512 tokens for each"
    assert options["--cache-type-k"] == options["--cache-type-v"] == "f16"
    assert "--spec-type" not in options
    assert "--spec-draft-model" not in options


def test_the_draft_has_the_same_cache_as_the_target() -> None:
    arguments = server_arguments(request_for("draft", dtype="float32"), [Path("t.gguf"), Path("d.gguf")])
    options = dict(itertools.pairwise(arguments))
    assert options["--spec-type"] == "draft-simple"
    assert options["--spec-draft-n-max"] == "3"
    assert options["--spec-draft-model"] == "d.gguf"
    assert {options[f"--cache-type-{part}"] for part in "kv"} == {"f32"}
    assert {options[f"--spec-draft-type-{part}"] for part in "kv"} == {"f32"}


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "off"), ("bfloat16", "auto")])
def test_float32_is_computed_without_flash_attention(dtype: str, expected: str) -> None:
    arguments = server_arguments(request_for("plain", dtype=dtype), [Path("t.gguf")])
    assert dict(itertools.pairwise(arguments))["--flash-attn"] == expected


def test_only_penalty_and_temperature_act_on_the_logits() -> None:
    asked = completion_request(ask(5, 6, seed=2**32 - 1), max_model_len=512)
    assert asked["samplers"] == ["penalties", "temperature"]
    assert (asked["repeat_penalty"], asked["repeat_last_n"], asked["temperature"]) == (1.1, 512, 0.7)
    assert asked["cache_prompt"] is False
    assert asked["seed"] == 0, "2**32 - 1 would mean: choose one"


def test_the_end_token_is_part_of_the_answer() -> None:
    assert answer(ask(5), REPLY)["token_ids"] == [1526, 2065, 5, 4]


def test_errors_of_the_server_are_passed_on() -> None:
    assert answer(ask(5), OUT_OF_CONTEXT)["error"] == "request (591 tokens) exceeds the available context size"


def test_decode_seconds_cover_all_tokens() -> None:
    assert decode_seconds(REPLY["timings"]) == pytest.approx(0.03591 * 4 / 3)
    assert decode_seconds({"predicted_n": 1, "predicted_ms": 0.001}) is None


def test_passes_that_only_read_a_long_prompt_decide_no_token() -> None:
    timings = {"prompt_n": 5000, "draft_n": 6, "draft_n_accepted": 2}
    counts = speculative_counts(Counters(10, 4, ()), Counters(16, 7, (2, 0)), timings)
    assert counts["num_target_passes"] == 4, "of six passes two read the first 4096 tokens of the prompt"
    assert counts["num_rounds"] == 3
    assert counts["accepted_per_position"] == [2]


def test_counts_that_are_not_known_exactly_are_left_open() -> None:
    counts = speculative_counts(None, None, {"prompt_n": 5})
    assert counts == {
        "num_draft_tokens": 0,
        "num_accepted_tokens": 0,
        "num_target_passes": None,
        "num_rounds": None,
    }
