"""From names and limits to an engine: where things come from, and how long sequences may be."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch

from evodraft.assemble import (
    VOCABULARY_FILE,
    LoadedTarget,
    LoadOptions,
    PartSpecs,
    TargetSource,
    build_engine,
    demo_folder,
    find_target,
    load_target,
)
from evodraft.config import EngineConfig
from evodraft.controllers import FixedController
from evodraft.drafters import EagleDrafter, ModelDrafter, NgramDrafter
from evodraft.drafters.eagle.files import save_head
from evodraft.engine import Engine
from evodraft.errors import CapacityError, ConfigError, UnknownOptionError, WeightsError
from evodraft.params import SamplingParams
from evodraft.testing import ScriptedDrafter, SwappingLearner
from evodraft.testing.heads import tiny_head
from evodraft.testing.pairs import tiny_pair
from evodraft.testing.tiny import tiny_model
from evodraft.types import Request
from evodraft.verifiers.auto import AutoVerifier
from evodraft.verifiers.coupled import CoupledVerifier

BYTES_PER_TOKEN: Final = 2 * 2 * 2 * 8 * 4  # layers x (keys, values) x heads x numbers x bytes of the tiny llama
CONTEXT: Final = 256


def built(parts: PartSpecs | None = None, model: Any = None, bundled: Path | None = None, **limits: Any) -> Engine:
    target = LoadedTarget(model or tiny_model("llama"), None, bundled)
    return build_engine(target, parts or PartSpecs(), LoadOptions(), EngineConfig(**limits))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo bundle of tiny models in the place where the real one would be."""
    pair = tiny_pair("llama")
    for name, model in (("target", pair.target), ("draft", pair.draft)):
        model.save_pretrained(tmp_path / name)
        pair.tokenizer.save_pretrained(tmp_path / name)
    files = importlib.resources.files
    monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path if name == "evodraft_demo" else files(name))
    return tmp_path


# --- targets ------------------------------------------------------------------------------------------------------


def test_models_that_are_loaded_are_taken_as_they_are() -> None:
    model, tokenizer = tiny_model("llama"), object()
    assert load_target((model, tokenizer), LoadOptions()) == LoadedTarget(model, tokenizer)


def test_the_demo_comes_with_its_draft(bundle: Path) -> None:
    assert demo_folder() == bundle
    loaded = load_target("demo", LoadOptions(device="cpu"))
    assert loaded.bundled_draft == bundle / "draft"
    assert loaded.tokenizer is not None
    parts = PartSpecs()
    drafter = build_engine(loaded, parts, LoadOptions(), EngineConfig()).drafter
    assert isinstance(drafter, ModelDrafter), "auto takes the bundled draft"


def test_the_demo_comes_with_its_heads(bundle: Path) -> None:
    """Those whose folders are there; `auto` prefers the one for all texts to the draft model."""
    assert dict(find_target("demo").bundled_heads) == {}
    model = load_target("demo", LoadOptions(device="cpu")).model
    for name in ("eagle_general", "eagle"):
        save_head(tiny_head(model), bundle / name, target=model)
        assert name in find_target("demo").bundled_heads
    loaded = load_target("demo", LoadOptions(device="cpu"))
    assert dict(loaded.bundled_heads) == {name: bundle / name for name in ("eagle", "eagle_general")}
    engine = build_engine(loaded, PartSpecs(), LoadOptions(), EngineConfig())
    assert isinstance(engine.drafter, EagleDrafter)
    assert engine.target.taps == (0, 1, 2)


def test_other_folders_have_none(bundle: Path) -> None:
    for path in (bundle / "target", str(bundle / "target")):
        assert load_target(path, LoadOptions(device="cpu")).bundled_draft is None


def test_hub_ids_have_registered_drafts_and_folders_have_none(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "Qwen/Qwen2.5-7B-Instruct"
    assert [draft.name for draft in find_target(name).registered_drafts] == ["Qwen/Qwen2.5-0.5B-Instruct"]
    assert find_target("owner/unheard-of").registered_drafts == ()
    assert find_target("demo") == TargetSource(str(bundle / "target"), bundle / "draft")
    (tmp_path / "Qwen").mkdir()
    (bundle / "target").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert find_target(name) == TargetSource(name), "a folder of that name is a folder"


def test_the_demos_vocabulary_is_found_where_it_lies_beside_the_target(bundle: Path) -> None:
    (bundle / VOCABULARY_FILE).write_text("[40, 7]")
    options = LoadOptions(device="cpu")
    loaded = load_target("demo", options)
    assert loaded.bundled_vocabulary == bundle / VOCABULARY_FILE
    drafter: Any = build_engine(loaded, PartSpecs("model", vocabulary="static"), options, EngineConfig()).drafter
    assert set(drafter.head.ids.tolist()) == {40, 7, *loaded.eos_token_ids}


def test_a_target_from_a_hub_drafts_with_what_is_registered(downloaded: Callable[..., Path]) -> None:
    pair = tiny_pair("llama")
    downloaded("Qwen/Qwen2.5-7B-Instruct", pair.target)
    downloaded("Qwen/Qwen2.5-0.5B-Instruct", pair.draft, "7ae557604adf67be50417f59c2c2f167def9a775")
    options = LoadOptions(device="cpu")
    loaded = load_target("Qwen/Qwen2.5-7B-Instruct", options)
    assert isinstance(build_engine(loaded, PartSpecs(), options, EngineConfig()).drafter, ModelDrafter)


def test_a_demo_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(importlib.resources, "files", missing)
    with pytest.raises(WeightsError, match="the demo models are not installed; run 'pip install evodraft-demo'"):
        demo_folder()


def test_load_options_reach_the_loader(bundle: Path) -> None:
    loaded = load_target(bundle / "target", LoadOptions(device="cpu", dtype="bfloat16"))
    assert loaded.model.dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "device"), [("float32", "cpu"), (torch.float32, "auto"), ("auto", "cpu")])
def test_options_that_say_what_is_true_of_a_given_model(dtype: Any, device: str) -> None:
    assert load_target((tiny_model("llama"), None), LoadOptions(device=device, dtype=dtype)).tokenizer is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype=bfloat16 does not fit the given model, which has torch.float32"),
        ({"device": "cuda"}, "device='cuda' does not fit the given model, which is on cpu"),
    ],
)
def test_options_that_would_change_a_given_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_target((tiny_model("llama"), None), LoadOptions(**options))


def test_unknown_numerics() -> None:
    with pytest.raises(UnknownOptionError, match="unknown numerics mode 'exact'. Known: auto, fast, invariant"):
        LoadOptions(numerics="exact")


@pytest.mark.parametrize(("source", "shown"), [(3, "int"), (None, "NoneType"), ([1], "list")])
def test_what_is_no_target(source: object, shown: str) -> None:
    with pytest.raises(ConfigError, match=f"{shown} is not a target; pass 'demo', a path, a hub id"):
        load_target(source, LoadOptions())


# --- parts --------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    engine = built()
    assert isinstance(engine.drafter, NgramDrafter)
    assert isinstance(engine.controller, FixedController)
    assert isinstance(engine.verifier, AutoVerifier)
    assert engine.learners == ()


def test_without_a_drafter_there_is_no_controller() -> None:
    engine = built(PartSpecs(drafter=None, controller="fixed"))
    assert (engine.drafter, engine.controller) == (None, None)
    assert built(PartSpecs(drafter=None, controller=None)).controller is None


def test_objects_are_used_as_they_are() -> None:
    drafter, controller = ScriptedDrafter(lambda context: None, vocab_size=64), FixedController()
    verifier, learner = CoupledVerifier(), SwappingLearner([])
    engine = built(PartSpecs(drafter, controller, verifier, [learner]))
    assert engine.drafter is drafter
    assert engine.controller is controller
    assert engine.verifier is verifier
    assert engine.learners == (learner,)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"drafter": 1}, "drafter=1 lacks needs, versions, max_length, admit, step, commit, release, apply; pass a"),
        (
            {"drafter": NgramDrafter},
            "is a class and not an object of it; pass a name, a config, or an object with the Dr",
        ),
        ({"controller": None}, "controller=None lacks needs_signals, start, plan, more, observe, finish; pass a name"),
        ({"verifier": None}, "verifier=None lacks exact, draft_key, verify; pass a name"),
        (
            {"learners": [object()]},
            "lacks needs, observe, step; pass a name, a config, or an object with the Learner pr",
        ),
    ],
)
def test_objects_without_the_protocol(specs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PartSpecs(**specs)


@pytest.mark.parametrize(
    "specs", [{"drafter": "x"}, {"controller": "x"}, {"verifier": "x"}, {"drafter": None, "controller": "x"}]
)
def test_unknown_names(specs: dict[str, Any]) -> None:
    with pytest.raises(UnknownOptionError, match="unknown .* 'x'"):
        PartSpecs(**specs)


# --- memory -------------------------------------------------------------------------------------------------------


def num_bytes(num_sequences: int, num_tokens: int, bytes_per_token: int = BYTES_PER_TOKEN) -> float:
    """A budget in GiB that holds just so much."""
    return num_sequences * num_tokens * bytes_per_token / 2**30


def length(engine: Engine) -> int:
    return engine.target.decoder.max_length


def test_the_context_is_the_limit_where_memory_is_ample() -> None:
    assert length(built()) == CONTEXT
    assert length(built(max_model_len=100)) == 100
    assert length(built(max_batch=64, kv_cache_gib=num_bytes(64, CONTEXT))) == CONTEXT


def test_memory_is_the_limit_where_it_is_short() -> None:
    assert length(built(model=wide(), kv_cache_gib=num_bytes(1, 77, WIDE_BYTES))) == 77
    assert length(built(model=wide(), kv_cache_gib=num_bytes(1, 78, WIDE_BYTES) - 2**-30)) == 77, "one byte is missing"


def test_sequences_that_do_not_fit_together_take_turns() -> None:
    engine = built(PartSpecs(drafter=None), wide(), kv_cache_gib=num_bytes(2, 40, WIDE_BYTES))
    params = SamplingParams(max_new_tokens=35)
    sessions = [engine.submit(Request(f"r{i}", (1, 2, 3, 4, 5), params, seed=i)) for i in range(4)]
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, sum(0 < session.num_tokens < 35 for session in sessions))
    assert most == 2
    assert [session.finish_reason for session in sessions] == ["length"] * 4


def test_the_cache_of_the_draft_counts() -> None:
    """A draft of four layers needs twice as much as the target."""
    parts = PartSpecs({"name": "model", "model": tiny_model("llama", num_hidden_layers=4)})
    engine = built(parts, wide(), max_batch=128, kv_cache_gib=num_bytes(1, 77, WIDE_BYTES + 2 * BYTES_PER_TOKEN))
    assert length(engine) == 77
    assert isinstance(engine.drafter, ModelDrafter)
    assert (engine.drafter.decoder.max_length, engine.drafter.decoder.num_slots) == (77, 128)


def test_a_draft_with_a_shorter_context() -> None:
    parts = PartSpecs({"name": "model", "model": tiny_model("llama", max_position_embeddings=50)})
    engine = built(parts)
    assert length(engine) == CONTEXT
    assert engine.drafter is not None
    assert engine.drafter.max_length == 50


def test_what_was_asked_for_must_fit() -> None:
    budget = num_bytes(1, 100, WIDE_BYTES)
    assert length(built(model=wide(), max_model_len=100, kv_cache_gib=budget)) == 100
    with pytest.raises(CapacityError) as raised:
        built(model=wide(), max_model_len=101, kv_cache_gib=budget)
    assert str(raised.value) == (
        "one sequence of 101 tokens needs 0.00154 GiB of cache and the budget is 0.00153 GiB; "
        "raise kv_cache_gib, or lower max_model_len"
    )


WIDE_BYTES: Final = 64 * BYTES_PER_TOKEN


def wide() -> Any:
    """A model whose tokens are large in the cache."""
    return tiny_model("llama", head_dim=512)


def test_more_than_the_context_is_refused() -> None:
    with pytest.raises(CapacityError, match="max_model_len=257 exceeds the model's context of 256; lower it"):
        built(max_model_len=CONTEXT + 1)


@pytest.mark.parametrize(
    ("named", "of_tokenizer", "expected"),
    [(None, None, set()), (3, None, {3}), ([3, 4], 5, {3, 4, 5}), ((3,), 3, {3}), (None, 7, {7}), (0, None, {0})],
)
def test_eos_ids_come_from_model_and_tokenizer(named: Any, of_tokenizer: int | None, expected: set[int]) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
    assert LoadedTarget(model, SimpleNamespace(eos_token_id=of_tokenizer)).eos_token_ids == expected
    assert LoadedTarget(SimpleNamespace(), None).eos_token_ids == set()
