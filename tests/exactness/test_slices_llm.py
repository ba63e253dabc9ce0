"""Drafts over a part of the vocabulary: the tokens are those of plain decoding, and q stays inside the part (X9)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import pytest
import torch

from evodraft import LLM
from evodraft.drafters.token_map import write_token_map
from evodraft.drafters.vocabulary import StaticConfig, Vocabulary
from evodraft.errors import ConfigError, ModelMismatchError
from evodraft.runtime.choose import RUNTIMES
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.packing import packing_problem
from evodraft.sampling import RandomStream
from evodraft.testing.pairs import TinyPair, tiny_pair
from evodraft.types import Draft, Verdict
from evodraft.verifiers.base import Case
from evodraft.verifiers.rejection import RejectionVerifier

FAMILIES: Final = ("llama", "qwen3", "gpt2", "gemma", "mistral")
PROMPTS: Final = ("Hello world", "ab", "The quick brown fox jumps", "x" * 30, "1 2 3 1 2 3 1 2")
NUM_TOKENS: Final = 20
ANSWER: Final[dict[str, Any]] = {"max_new_tokens": NUM_TOKENS, "ignore_eos": True}
END: Final = 256


@functools.cache
def pair(family: str) -> TinyPair:
    return tiny_pair(family)


@functools.cache
def plain(family: str, **options: Any) -> tuple[tuple[int, ...], ...]:
    llm = LLM.from_pretrained((pair(family).target, pair(family).tokenizer), drafter=None)
    return tuple(out.token_ids for out in llm.generate(list(PROMPTS), **ANSWER, **options))


@functools.cache
def kept(family: str) -> Vocabulary:
    """Every other id that plain decoding says: about half of the tokens cannot be guessed."""
    said = sorted({token_id for token_ids in plain(family) for token_id in token_ids})
    return Vocabulary(tuple(sorted({*said[::2], 5, END})), "half of what is said")


def llm_of(family: str, vocabulary: object, **options: Any) -> LLM:
    models = pair(family)
    draft = {"name": "model", "model": (models.draft, models.tokenizer)}
    options = {"controller": "fixed:3", **options}
    return LLM.from_pretrained((models.target, models.tokenizer), drafter=draft, vocabulary=vocabulary, **options)


class Recording(RejectionVerifier):
    """Keeps the drafts that it sees."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        self.drafts.append(case.draft)
        return super().verify(case, stream)


@pytest.mark.parametrize("verifier", ["rejection", "coupled"])
@pytest.mark.parametrize("controller", ["fixed:3", "confidence"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_plain_decoding(family: str, controller: str, verifier: str) -> None:
    llm = llm_of(family, kept(family), controller=controller, verifier=verifier)
    outs = llm.generate(list(PROMPTS), **ANSWER)
    assert tuple(out.token_ids for out in outs) == plain(family)
    num_drafted, num_accepted = (
        sum(getattr(out.stats, name) for out in outs) for name in ("num_draft_tokens", "num_accepted_tokens")
    )
    assert 0.1 * num_drafted < num_accepted < num_drafted, "the slice says the right ids, and misses some"


@pytest.mark.parametrize("temperature", [0.7, 1.3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_coupled_tokens_are_those_of_plain_decoding(family: str, temperature: float) -> None:
    params = {"temperature": temperature, "top_p": 0.9, "seed": 7}
    outs = llm_of(family, kept(family), verifier="coupled").generate(list(PROMPTS), **ANSWER, **params)
    assert tuple(out.token_ids for out in outs) == plain(family, **params)
    assert sum(out.stats.num_accepted_tokens for out in outs) > 0


@pytest.mark.parametrize(
    "params", [{"temperature": 1.0}, {"temperature": 0.6, "top_k": 5}, {"temperature": 2.0, "min_p": 0.01}]
)
def test_q_is_a_law_within_the_slice(params: dict[str, Any]) -> None:
    verifier, vocabulary = Recording(), kept("llama")
    outs = llm_of("llama", vocabulary, verifier=verifier).generate(list(PROMPTS), **ANSWER, **params, seed=3)
    laws = torch.cat([draft.q for draft in verifier.drafts if draft.q is not None])
    drafted = [token_id for draft in verifier.drafts for token_id in draft.token_ids]
    outside = torch.ones(laws.shape[-1], dtype=torch.bool)
    outside[list(vocabulary.ids)] = False
    assert laws.shape == (len(drafted), pair("llama").target.config.vocab_size)
    assert not laws[:, outside].any()
    torch.testing.assert_close(laws.sum(dim=-1), torch.ones(len(drafted)))
    assert bool((laws[range(len(drafted)), drafted] > 0).all())
    said = {token_id for out in outs for token_id in out.token_ids}
    assert said - set(vocabulary.ids), "the target says what the draft cannot"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_of_the_draft(runtime: str) -> None:
    weight = pair("llama").draft.lm_head.weight
    problems = {"native": native_problem, "packed": packing_problem}
    if runtime in problems and (problem := problems[runtime](weight)) is not None:
        pytest.skip(problem)
    outs = llm_of("llama", kept("llama"), runtime=runtime).generate(list(PROMPTS), **ANSWER)
    assert tuple(out.token_ids for out in outs) == plain("llama")
    assert sum(out.stats.num_accepted_tokens for out in outs) > 0


def test_a_slice_of_everything_drafts_what_the_whole_head_drafts() -> None:
    ids = tuple(range(pair("llama").target.config.vocab_size))
    whole, sliced = (llm_of("llama", part).generate(list(PROMPTS), **ANSWER) for part in (None, Vocabulary(ids, "all")))
    assert [out.stats.accepted_per_position for out in whole] == [out.stats.accepted_per_position for out in sliced]


def test_a_draft_of_which_nothing_can_be_right() -> None:
    said = {token_id for token_ids in plain("llama") for token_id in token_ids}
    never = Vocabulary(tuple(sorted({*range(264)} - said)), "never said")
    outs = llm_of("llama", never).generate(list(PROMPTS), **ANSWER)
    assert tuple(out.token_ids for out in outs) == plain("llama")
    assert sum(out.stats.num_accepted_tokens for out in outs) == 0


def test_weights_that_are_written_reach_the_slice() -> None:
    models = tiny_pair("llama")
    draft = {"name": "model", "model": models.draft}
    llm = LLM.from_pretrained((models.target, models.tokenizer), drafter=draft, vocabulary=kept("llama"))
    drafter: Any = llm.engine.drafter
    assert drafter.copied_bytes == drafter.head.num_rows * 32 * 4
    before = sum(out.stats.num_accepted_tokens for out in llm.generate(list(PROMPTS), **ANSWER))
    with torch.no_grad():
        models.draft.lm_head.weight.neg_()
    outs = llm.generate(list(PROMPTS), **ANSWER)
    assert tuple(out.token_ids for out in outs) == plain("llama"), "whatever the draft says now"
    assert drafter.head.version == 1
    assert torch.equal(drafter.head.weight, models.draft.lm_head.weight[list(kept("llama").ids)])
    assert sum(out.stats.num_accepted_tokens for out in outs) < before / 2


# --- how it is named ----------------------------------------------------------------------------------------------


def ids_of(llm: LLM) -> Sequence[int]:
    drafter: Any = llm.engine.drafter
    ids: list[int] = drafter.head.ids.tolist()
    return ids


@pytest.mark.parametrize("ending", [".pt", ".json", ".txt"])
def test_a_token_map_of_any_format(tmp_path: Any, ending: str) -> None:
    path = tmp_path / f"map{ending}"
    write_token_map(path, [70, 9, 30])
    assert ids_of(llm_of("llama", f"static:{path}")) == [9, 30, 70, END]
    assert ids_of(llm_of("llama", {"name": "static", "path": str(path), "size": 2})) == [70, END]
    assert ids_of(llm_of("llama", StaticConfig(path, size=3))) == [9, 70, END]


def test_a_draft_that_has_fewer_ids_than_the_target() -> None:
    models = pair("llama")
    small = tiny_pair("llama", vocab_size=260).draft
    llm = LLM.from_pretrained(
        (models.target, models.tokenizer),
        drafter={"name": "model", "model": small},
        vocabulary=Vocabulary((5, 256, 262), "beyond"),
    )
    assert ids_of(llm) == [5, 256]
    assert llm.generate(PROMPTS[0], **ANSWER).token_ids == plain("llama")[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocabulary": "sttic"}, ConfigError, "unknown vocabulary 'sttic'; did you mean 'static'?"),
        ({"vocabulary": "static"}, ConfigError, "this target has none bundled; make one with 'evodraft train vocab"),
        ({"vocabulary": 7}, ConfigError, "vocabulary=7 lacks ids, source"),
        ({"vocabulary": Vocabulary((1, 264), "mine")}, ModelMismatchError, "mine lists the token ids 1 .. 264"),
        ({"vocabulary": Vocabulary((1, 2), "mine"), "drafter": None}, ConfigError, "drafter=None drafts nothing"),
        (
            {"vocabulary": Vocabulary((1, 2), "mine"), "drafter": "ngram"},
            ConfigError,
            "a vocabulary (mine) was named and the drafter is 'ngram', which has no output matrix",
        ),
        (
            {"vocabulary": Vocabulary((1, 2), "mine"), "drafter": "auto"},
            ConfigError,
            "the drafter is 'ngram', which has no output matrix; leave vocabulary out, or name a drafter that has one",
        ),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    models = pair("llama")
    draft = {"name": "model", "model": models.draft}
    with pytest.raises(error) as raised:
        LLM.from_pretrained((models.target, models.tokenizer), **{"drafter": draft, **options})
    assert message in str(raised.value)


def test_a_drafter_that_is_built_already() -> None:
    models = pair("llama")
    built = llm_of("llama", None).engine.drafter
    with pytest.raises(ConfigError, match="a drafter that is built already; build it with its ids"):
        LLM.from_pretrained((models.target, models.tokenizer), drafter=built, vocabulary=kept("llama"))
