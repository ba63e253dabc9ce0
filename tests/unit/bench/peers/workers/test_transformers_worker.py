"""The transformers worker on tiny models: every mode says what plain generation says, and counts what it did."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from evodraft.bench.peers.base import Mode
from evodraft.bench.peers.transformers import TRANSFORMERS
from evodraft.bench.peers.workers import transformers_worker as subject
from evodraft.bench.peers.workers.transformers_worker import Block, BlockStreamer, TransformersRunner, decode_seconds
from evodraft.testing.pairs import TinyPair, noisy_copy, tiny_pair

PROMPT = (104, 101, 108, 108, 111, 104, 101, 108)  # repeats itself, so that prompt lookup finds something
MAX_MODEL_LEN = 96
ASSISTED = [name for name, mode in TRANSFORMERS.modes.items() if mode.needs_draft]


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder of workers is on the path, as when the worker runs; nothing is compiled for real."""
    monkeypatch.syspath_prepend(str(Path(subject.__file__).parent))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    yield
    sys.modules.pop("worker", None)


@pytest.fixture(scope="module")
def pair() -> TinyPair:
    return tiny_pair("llama", num_hidden_layers=4)


@pytest.fixture
def always_right(pair: TinyPair) -> TinyPair:
    """The draft is the target once more."""
    return pair._replace(draft=noisy_copy(pair.target, 0.0))


def runner(pair: TinyPair, mode: str, **changes: Any) -> TransformersRunner:
    chosen: Mode = TRANSFORMERS.modes[mode]
    draft = pair.draft if chosen.needs_draft else None
    return TransformersRunner(pair.target, draft, {**chosen.options, **changes}, MAX_MODEL_LEN)


def ask(*token_ids: int, **changes: Any) -> dict[str, Any]:
    return {
        "token_ids": list(token_ids or PROMPT),
        "max_new_tokens": 24,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "seed": 7,
        "stop_token_ids": [],
        **changes,
    }


def tokens(runner: TransformersRunner, *asks: dict[str, Any]) -> list[list[int]]:
    return [answer["token_ids"] for answer in runner.generate(list(asks))["answers"]]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("mode", TRANSFORMERS.modes)
def test_greedy_tokens_of_every_mode_are_those_of_plain(pair: TinyPair, mode: str, penalty: float) -> None:
    asked = ask(repetition_penalty=penalty)
    (expected,) = tokens(runner(pair, "plain"), asked)
    assert tokens(runner(pair, mode), asked) == [expected]
    assert len(expected) == 24
    stop = expected[9]
    cut = expected[: expected.index(stop) + 1]
    assert tokens(runner(pair, mode), ask(repetition_penalty=penalty, stop_token_ids=[stop])) == [cut]


@pytest.mark.parametrize("mode", TRANSFORMERS.modes)
def test_counts_and_times_add_up(pair: TinyPair, mode: str) -> None:
    reply = runner(pair, mode).generate([ask(temperature=0.7)])
    (answer,) = reply["answers"]
    num_tokens = len(answer["token_ids"])
    assert num_tokens == answer["num_target_passes"] + answer["num_accepted_tokens"]
    assert answer["num_accepted_tokens"] <= answer["num_draft_tokens"]
    assert answer["num_rounds"] <= answer["num_target_passes"]
    assert sum(answer.get("accepted_per_position", ())) == answer["num_accepted_tokens"]
    assert (answer["num_draft_tokens"] > 0) == (answer["num_rounds"] > 0) == (mode not in ("plain", "static-compile"))
    assert 0 < reply["decode_s"] <= reply["request_s"]


@pytest.mark.parametrize("mode", TRANSFORMERS.modes)
def test_a_seed_repeats_and_another_differs(pair: TinyPair, mode: str) -> None:
    made = runner(pair, mode)
    before = torch.random.get_rng_state()
    first = tokens(made, ask(temperature=1.0))
    assert torch.equal(torch.random.get_rng_state(), before)
    made.reset()
    assert tokens(made, ask(temperature=1.0)) == first
    assert tokens(made, ask(temperature=1.0, seed=8)) != first


def test_a_draft_that_is_always_right_is_counted_so(always_right: TinyPair) -> None:
    made = runner(always_right, "assistant-constant")
    (answer,) = made.generate([ask()])["answers"]
    counts = {name: answer[name] for name in answer if name.startswith("num_")}
    assert counts == {
        "num_draft_tokens": 20,  # four blocks of 5 + 1 are all 24 tokens
        "num_accepted_tokens": 20,
        "num_target_passes": 4,
        "num_rounds": 4,
    }
    assert answer["accepted_per_position"] == [4] * 5


def test_the_heuristic_carries_on_until_reset(always_right: TinyPair) -> None:
    made = runner(always_right, "assistant-heuristic")
    first = made.generate([ask()])["answers"][0]["num_rounds"]
    assert always_right.draft.generation_config.num_assistant_tokens > 5
    assert made.generate([ask()])["answers"][0]["num_rounds"] < first  # longer drafts from the start
    made.reset()
    assert always_right.draft.generation_config.num_assistant_tokens == 5
    assert made.generate([ask()])["answers"][0]["num_rounds"] == first


@pytest.mark.parametrize("mode", ASSISTED)
def test_knobs_reach_the_draft(pair: TinyPair, mode: str) -> None:
    runner(pair, mode)
    for name, value in TRANSFORMERS.modes[mode].options["draft"].items():
        assert getattr(pair.draft.generation_config, name) == value


def test_a_batch_is_padded_and_says_what_single_prompts_say(pair: TinyPair) -> None:
    made = runner(pair, "plain")
    asks = [ask(5, 6, 7, 8, 9), ask(max_new_tokens=6), ask(200)]
    single = [tokens(made, asked)[0] for asked in asks]
    assert tokens(made, *asks) == single
    assert [len(ids) for ids in single] == [24, 6, 24]


def test_settings_of_the_models_folder_do_not_reach_sampling(pair: TinyPair) -> None:
    (greedy,) = tokens(runner(pair, "plain"), ask())
    pair.target.generation_config = GenerationConfig(top_k=1, max_length=9, eos_token_id=greedy[1])
    (hot,) = tokens(runner(pair, "plain"), ask(temperature=5.0))
    assert hot != greedy
    assert len(hot) == 24


def test_an_error_in_early_exit_does_not_leave_the_target_short(
    pair: TinyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runner(pair, "early-exit")

    def fail(*arguments: Any, **named: Any) -> None:
        pair.target.config.num_hidden_layers = 1
        raise RuntimeError("while guessing")

    with monkeypatch.context() as patched:
        patched.setattr(pair.target, "generate", fail)
        with pytest.raises(RuntimeError, match="while guessing"):
            made.generate([ask()])
    assert pair.target.config.num_hidden_layers == 4


def test_what_is_passed_to_generate_follows_the_mode(pair: TinyPair) -> None:
    options = TRANSFORMERS.modes["early-exit"].options
    assert subject._arguments(pair.target, None, options, 8)["assistant_early_exit"] == 1
    compiled = subject._arguments(pair.target, None, TRANSFORMERS.modes["static-compile"].options, 8)
    assert (compiled["cache_implementation"], compiled["max_cache_len"]) == ("static", 8)
    assert compiled["compile_config"]._compile_all_devices


def test_static_mode_is_handed_to_torch_compile(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []

    def compile_(function: Any, **options: Any) -> Any:
        compiled.append(options)
        return function

    pair.target.__dict__.pop("_compiled_call", None)
    monkeypatch.setattr(torch, "compile", compile_)
    made = runner(pair, "static-compile")
    made.generate([ask()])
    made.generate([ask(1, 2)])
    assert [options["backend"] for options in compiled] == ["inductor"]


@pytest.mark.parametrize(
    ("mode", "is_there", "label"),
    [
        ("plain", False, ""),
        ("assistant-constant", True, ""),
        (
            "assistant-confidence",
            False,
            "without scikit-learn, as pip installs it: the confidence threshold stays as set",
        ),
        ("assistant-confidence", True, "with scikit-learn: the confidence threshold is refitted while it runs"),
        ("early-exit", False, "early exit of a model as it is"),
        ("static-compile", False, "compiled on a CPU by a switch that transformers keeps private"),
    ],
)
def test_label_says_what_a_reader_must_know(
    pair: TinyPair, mode: str, is_there: bool, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if is_there else None)
    assert runner(pair, mode).label == label


@pytest.mark.parametrize(
    ("asks", "message"),
    [
        ([ask(), ask(temperature=1.0)], "differ in temperature"),
        ([ask(), ask(stop_token_ids=[1], repetition_penalty=1.1)], "differ in repetition_penalty, stop_token_ids"),
        ([ask(max_new_tokens=MAX_MODEL_LEN)], "a prompt of 8 tokens and 96 new ones: 1 to 96 together fit"),
        ([{**ask(), "token_ids": []}], "a prompt of 0 tokens"),
    ],
)
def test_what_generate_cannot_do_is_an_error(pair: TinyPair, asks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runner(pair, "plain").generate(asks)


def test_load_reads_folders(pair: TinyPair, tmp_path: Path) -> None:
    pair.target.save_pretrained(tmp_path / "target")
    pair.draft.save_pretrained(tmp_path / "draft")
    request = {
        "target": str(tmp_path / "target"),
        "dtype": "bfloat16",
        "threads": torch.get_num_threads(),
        "max_model_len": MAX_MODEL_LEN,
    }
    for name, draft in (("assistant-constant", str(tmp_path / "draft")), ("static-compile", None)):
        loaded = subject.load({**request, "draft": draft, "options": TRANSFORMERS.modes[name].options})
        assert loaded._target.dtype == torch.bfloat16
        assert len(tokens(loaded, ask())[0]) == 24
        assert set(loaded.versions) == {"torch", "transformers"}
        assert loaded.resident_bytes() > 0
        loaded.close()
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32, bfloat16"):
        subject.load({**request, "draft": None, "dtype": "int8"})


def test_blocks_are_timed_after_the_prompt() -> None:
    times = iter((1.0, 2.0))
    streamer = BlockStreamer(lambda: next(times))
    for ids in ([[5, 6, 7]], [[1]], [[2, 3]]):
        streamer.put(torch.tensor(ids))
    streamer.end()
    assert streamer.blocks == [Block(1, 1.0), Block(2, 2.0)]


def test_decoding_time_is_scaled_from_the_tokens_after_the_first_block() -> None:
    assert decode_seconds([Block(1, 5.0), Block(1, 6.0)], 6.0, 9.0) == 2.0
    assert decode_seconds([Block(3, 5.0), Block(1, 6.0)], 6.0, 3.5) == 3.5  # no longer than the whole
    assert decode_seconds([Block(4, 5.0)], 5.0, 2.0) == 2.0  # all in one block: nothing to tell apart
