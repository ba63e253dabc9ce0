"""What cannot be built says why, with value, limit and remedy; what is built across padded sizes is exact."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from evodraft import LLM
from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters import NgramConfig, NgramDrafter
from evodraft.errors import (
    CapacityError,
    ConfigError,
    EvodraftError,
    ModelMismatchError,
    UnknownOptionError,
    UnsupportedModelError,
    WeightsError,
)
from evodraft.testing import ScriptedDrafter
from evodraft.testing.pairs import TinyPair, noisy_copy, tiny_pair
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer
from evodraft.verifiers import VERIFIERS

NUM_TOKENS: Final = 24
PROMPTS: Final = ("Hello world", "ab", "x" * 30)


@functools.cache
def pair() -> TinyPair:
    return tiny_pair("qwen3")


def build(**options: Any) -> LLM:
    return LLM.from_pretrained((pair().target, pair().tokenizer), **options)


def plain(model: torch.nn.Module) -> list[tuple[int, ...]]:
    llm = LLM.from_pretrained((model, pair().tokenizer), drafter=None)
    return [out.token_ids for out in llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True)]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafter": "ngrm"}, "unknown drafter 'ngrm'; did you mean 'ngram'?"),
        ({"drafter": "medusa"}, "unknown drafter 'medusa'. Known: auto, eagle, model, ngram"),
        (
            {"drafter": {"name": "ngram", "max_ngrm": 3}},
            "unknown drafter 'ngram' option 'max_ngrm'; did you mean 'max_ngram'?",
        ),
        ({"controller": "confidnce"}, "unknown controller 'confidnce'; did you mean 'confidence'?"),
        ({"verifier": "couple"}, "unknown verifier 'couple'; did you mean 'coupled'?"),
        ({"vocabulary": "evolving"}, "unknown vocabulary 'evolving'. Known: static"),
        ({"preset": "onlinespec"}, "unknown preset 'onlinespec'. Known: none in this version"),
        ({"learners": ["parameters"]}, "unknown learner 'parameters'. Known: none in this version"),
        ({"learners": "parameters"}, "unknown learner 'parameters'. Known: none in this version"),
        ({"numerics": "invarant"}, "unknown numerics mode 'invarant'; did you mean 'invariant'"),
        ({"drafterr": "ngram"}, "unknown option 'drafterr'; did you mean 'drafter'?"),
        ({"num_assistant_token": 3}, "unknown option 'num_assistant_token'; did you mean 'num_assistant_tokens'?"),
        ({"speculative_config": {"metod": "ngram"}}, "unknown speculative_config key 'metod'; did you mean 'method'?"),
    ],
)
def test_unknown_names_offer_the_nearest(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownOptionError) as raised:
        build(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafter": 42}, "drafter=42 lacks needs, versions, max_length, admit, step, commit, release, apply; pass a"),
        ({"drafter": NgramDrafter}, "NgramDrafter'> is a class and not an object of it; pass a name"),
        ({"controller": None}, "controller=None lacks needs_signals, start, plan, more, observe, finish; pass a name"),
        ({"verifier": object}, "verifier=<class 'object'> lacks exact, draft_key, verify; pass a name"),
        ({"learners": [7]}, "learner=7 lacks needs, observe, step; pass a name"),
        ({"drafter": "model"}, "this target has none bundled; write drafter='model:PATH-OR-HUB-ID'"),
        ({"controller": "fixed:-1"}, "num_draft_tokens=-1 is not a whole number from 0 to 64"),
        ({"controller": "fixed:many"}, "controller 'fixed' needs a whole number for num_draft_tokens, not 'many'"),
        ({"drafter": "ngram", "assistant_model": 1}, "2 drafters are named ('ngram' and 'model')"),
        ({"max_batch": 0}, "max_batch=0 is not a whole number from 1 to 1024"),
        ({"kv_cache_gib": -1.0}, "kv_cache_gib=-1.0 is not a number from 0.001"),
        (
            {"dtype": "bfloat16"},
            "dtype=bfloat16 does not fit the given model, which has torch.float32; convert it before",
        ),
        (
            {"dtype": torch.float16},
            "dtype=float16 does not fit the given model, which has torch.float32; convert it before",
        ),
        ({"device": "cuda:1"}, "device='cuda:1' does not fit the given model, which is on cpu; move it before"),
    ],
)
def test_parts_that_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "options", [{"drafter": "ngrm"}, {"controller": "x"}, {"verifier": "x"}, {"learners": [7]}, {"max_batch": 0}]
)
def test_wrong_parts_are_found_before_anything_is_loaded(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LLM.from_pretrained("/a/folder/that/does/not/exist", **options)
    with pytest.raises(WeightsError):
        LLM.from_pretrained("/a/folder/that/does/not/exist")


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        (7, ConfigError, "int is not a target; pass 'demo', a path, a hub id, or (model, tokenizer)"),
        ((1, 2, 3), ConfigError, "a tuple of 3 was given as target; pass (model, tokenizer)"),
        (("a", "b"), UnsupportedModelError, "str has no transformers config"),
        ((torch.nn.Linear(2, 2), None), UnsupportedModelError, "Linear has no transformers config"),
    ],
)
def test_what_is_no_target(target: object, kind: type[EvodraftError], message: str) -> None:
    with pytest.raises(kind) as raised:
        LLM.from_pretrained(target)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"drafter": NgramConfig(max_ngram=3), "controller": FixedConfig(num_draft_tokens=2)},
        {"drafter": NgramDrafter(), "controller": FixedController(), "verifier": VERIFIERS["coupled"].build(None)},
        {"drafter": {"name": "ngram", "max_ngram": 3}, "controller": {"name": "fixed", "num_draft_tokens": 2}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}},
        {"prompt_lookup_num_tokens": 3, "dtype": "float32", "device": "cpu"},
        {"assistant_model": pair().draft, "assistant_confidence_threshold": 0.3, "num_assistant_tokens": 4},
    ],
)
def test_names_configs_mappings_and_objects_build(options: dict[str, Any]) -> None:
    outs = build(**options).generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True)
    assert [out.token_ids for out in outs] == plain(pair().target)
    assert sum(out.stats.num_draft_tokens for out in outs) > 0


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "model"
    pair().target.save_pretrained(folder)
    pair().tokenizer.save_pretrained(folder)
    return folder


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def swap(folder: Path) -> None:
    other = tiny_model("qwen3", vocab_size=264, hidden_size=40)
    other.save_pretrained(folder)
    pair().target.config.save_pretrained(folder)


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"the folder .*model does not exist; check the path"),
        (
            lambda folder: (folder / "config.json").unlink(),
            r"has no config\.json; pass the folder that save_pretrained",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"cannot read the weights of .*model: .*again"),
        (truncate, r"cannot read the weights of .*model\.safetensors: .*copy or download the files again"),
        (empty, r"cannot read the weights of .*model\.safetensors: .*copy or download the files again"),
        (swap, r"another shape than config\.json says, first .*\(264, 40\) stored, \(264, 32\) expected"),
        (drop_a_tensor, r"1 tensors are missing, first model\.layers\.1\.mlp\.up_proj\.weight; they would be random"),
    ],
)
@pytest.mark.parametrize("part", ["target", "draft"])
def test_damaged_files(stored: Path, tmp_path: Path, part: str, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stored, folder)
    damage(folder)
    target, drafter = (str(folder), "ngram") if part == "target" else (tuple(pair()[::2]), f"model:{folder}")
    with pytest.raises(WeightsError, match=message):
        LLM.from_pretrained(target, drafter=drafter)


def test_sound_files_serve(stored: Path) -> None:
    llm = LLM.from_pretrained(str(stored), drafter=f"model:{stored}", controller="fixed:4")
    outs = llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True)
    assert [out.token_ids for out in outs] == plain(pair().target)
    assert all(out.stats.acceptance_rate == 1.0 for out in outs)


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_length_over_the_context() -> None:
    with pytest.raises(CapacityError, match=r"max_model_len=257 exceeds the model's context of 256; lower it"):
        build(max_model_len=257)


def test_a_cache_that_is_too_small() -> None:
    """2 layers x keys and values x 2 heads x 4 bytes x (8 numbers of the target + 512 of the draft): 16640 a token."""
    with pytest.raises(CapacityError) as raised:
        build(assistant_model=large_draft(), max_model_len=65, kv_cache_gib=0.001)
    assert "one sequence of 65 tokens needs 0.00101 GiB of cache and the budget is 0.001 GiB" in str(raised.value)
    assert "raise kv_cache_gib, or lower max_model_len" in str(raised.value)


def test_a_small_cache_shortens_what_can_be_said() -> None:
    llm = build(assistant_model=large_draft(), kv_cache_gib=0.001)
    with pytest.raises(EvodraftError, match=r"max_new_tokens=70 after a prompt of 1 tokens exceeds the limit of 64"):
        llm.generate("a", max_new_tokens=70)
    assert llm.generate("a", max_new_tokens=63, ignore_eos=True).stats.num_tokens == 63


def test_a_small_cache_is_shared_in_turns() -> None:
    """Prompts of 2 to 30 tokens and their outputs within 64 tokens, of which the longest reserves 54."""
    llm = build(assistant_model=large_draft(), kv_cache_gib=0.001, max_batch=3)
    outs = llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True)
    assert [out.token_ids for out in outs] == plain(pair().target)


def large_draft() -> torch.nn.Module:
    """A draft whose tokens are large in the cache."""
    return tiny_model("qwen3", 264, head_dim=512)


# --- tokenizers ---------------------------------------------------------------------------------------------------


def other_tokenizer() -> PreTrainedTokenizerFast:
    """The same ids, but two of them mean each other's token."""
    tokenizer = byte_tokenizer()
    state = tokenizer.backend_tokenizer.to_str().replace('"A":32,', '"A":33,').replace('"B":33,', '"B":32,')
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer.from_str(state), eos_token="<|end|>")


def test_a_tokenizer_mismatch_says_which_ids_differ_and_what_to_do() -> None:
    with pytest.raises(ModelMismatchError) as raised:
        build(assistant_model=(pair().draft, other_tokenizer()))
    message = str(raised.value)
    assert message.startswith("2 of 257 token ids differ between target and draft")
    assert "(id 32: target 'A', draft 'B', id 33: target 'B', draft 'A')" in message
    assert "use a draft model of the same family, or drafter='ngram', which needs no model" in message


def test_an_embedding_that_lacks_rows_says_which() -> None:
    small = tiny_model("qwen3", vocab_size=200)
    with pytest.raises(ModelMismatchError, match=r"target id 256 \('<\|end\|>'\) has no row .* embedding of 200 rows"):
        build(assistant_model=(small, byte_tokenizer()))


def test_a_token_that_the_draft_does_not_know_is_fine() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|tool|>", special=True)])
    llm = LLM.from_pretrained(
        (pair().target, tokenizer), assistant_model=(pair().draft, pair().tokenizer), num_assistant_tokens=3
    )
    outs = llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True)
    assert [out.token_ids for out in outs] == plain(pair().target)


def resized(model: Any, vocab_size: int) -> Any:
    """The same model with more or fewer padding rows; new rows are as large as the old ones, so that they are said."""
    copied = noisy_copy(model, noise=0.0)
    copied.resize_token_embeddings(vocab_size, mean_resizing=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for table in (copied.get_input_embeddings(), copied.get_output_embeddings()):
            new = table.weight[264:]
            new.copy_(torch.randn(new.shape, generator=generator) * 32**-0.5)
    return copied


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("target_size", "draft_size"), [(272, 264), (264, 272), (300, 257), (257, 300)])
def test_padded_sizes_may_differ(target_size: int, draft_size: int, temperature: float) -> None:
    """Padding ids are said by these random targets, so the draft model meets ids that it has no row for."""
    target, draft = resized(pair().target, target_size), resized(pair().target, draft_size)
    options = {"max_new_tokens": 60, "temperature": temperature, "seed": 3, "ignore_eos": True}
    spec = {"name": "model", "model": (draft, pair().tokenizer)}
    llm = LLM.from_pretrained((target, pair().tokenizer), drafter=spec, controller="fixed:4")
    outs, again = (llm.generate(list(PROMPTS), speculative=is_fast, **options) for is_fast in (True, False))
    assert [out.token_ids for out in outs] == [out.token_ids for out in again]
    assert sum(out.stats.num_accepted_tokens for out in outs) > 10
    most = max(max(out.token_ids) for out in outs)
    assert most >= draft_size or target_size <= draft_size


def test_a_drafter_of_the_callers_own() -> None:
    drafter = ScriptedDrafter(lambda context: context[-1], vocab_size=264)
    outs = build(drafter=drafter, controller="fixed:2").generate(
        list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True
    )
    assert [out.token_ids for out in outs] == plain(pair().target)
    assert len(drafter.released) == len(PROMPTS)
