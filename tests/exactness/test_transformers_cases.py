"""What transformers' assisted generation refuses or gets wrong (checked on 5.23) is right here: one test each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, StoppingCriteria, StoppingCriteriaList

from evodraft import LLM
from evodraft.errors import UnknownOptionError
from evodraft.testing import ScriptedDrafter

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and no end token."""
    made = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(ALPHABET)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def make(num_layers: int, seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(ALPHABET),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def prompt(seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(33, 90, (8,), generator=generator).tolist()


def plain(model: LlamaForCausalLM, ids: list[int], **options: Any) -> list[int]:
    """What transformers' plain greedy decoding says."""
    output = model.generate(torch.tensor([ids]), max_new_tokens=NUM_TOKENS, do_sample=False, **options)
    return output[0, len(ids) :].tolist()


class Case:
    """A target whose third token is a letter not said before, and an oracle that drafts what it will say."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.ids = prompt()
        for seed in range(100):
            self.target = make(4, seed)
            self.new = plain(self.target, self.ids)
            letter = tokenizer.decode([self.new[2]])
            if self.new.index(self.new[2]) == 2 and letter.isascii() and letter.strip():
                break
        self.stop = letter

    def oracle(self) -> LLM:
        """Proposes the true continuation, six tokens at a time."""
        text = [*self.ids, *self.new]
        drafter = ScriptedDrafter(
            lambda context: text[len(context)] if len(context) < len(text) else None, vocab_size=len(ALPHABET)
        )
        return LLM.from_pretrained((self.target, self.tokenizer), drafter=drafter, controller="fixed:6")

    def with_draft(self, **options: Any) -> LLM:
        return LLM.from_pretrained(
            (self.target, self.tokenizer), assistant_model=(make(1), self.tokenizer), num_assistant_tokens=4, **options
        )


@pytest.fixture(scope="module")
def case(tokenizer: PreTrainedTokenizerFast) -> Case:
    made = Case(tokenizer)
    assert len(set(made.new)) > 6, "a text without variety proves nothing"
    return made


def test_greedy_with_a_draft_model_equals_greedy(case: Case) -> None:
    [out] = case.with_draft().generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS)
    assert list(out.token_ids) == case.new


def test_a_batch_of_two_is_drafted(case: Case) -> None:
    """transformers: assisted generate is only supported for batch size 1."""
    other = prompt(seed=1)[:5]
    outs = case.with_draft().generate(prompt_token_ids=[case.ids, other], max_new_tokens=NUM_TOKENS)
    assert [list(out.token_ids) for out in outs] == [case.new, plain(case.target, other)]
    assert all(out.stats.num_draft_tokens > 0 for out in outs)


def test_several_samples_of_one_prompt_are_drafted(case: Case) -> None:
    """transformers: num_return_sequences has to be 1 when doing assisted generate."""
    options = {"max_new_tokens": NUM_TOKENS, "n": 3, "temperature": 1.0, "seed": 4}
    [out] = case.with_draft().generate(prompt_token_ids=[case.ids], **options)
    [same] = case.with_draft().generate(prompt_token_ids=[case.ids], speculative=False, **options)
    assert len({sample.token_ids for sample in out.samples}) == 3
    assert [sample.token_ids for sample in out.samples] == [sample.token_ids for sample in same.samples]


@pytest.mark.parametrize("make_llm", [Case.with_draft, Case.oracle])
def test_stop_strings_with_a_drafter(case: Case, make_llm: Callable[[Case], LLM]) -> None:
    """transformers with a draft model: refused; with an oracle: missed inside the block, 24 tokens instead of 3."""
    reference = plain(case.target, case.ids, tokenizer=case.tokenizer, stop_strings=[case.stop])
    [out] = make_llm(case).generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS, stop=[case.stop])
    assert len(reference) == 3
    assert list(out.token_ids) == reference
    assert out.text == case.tokenizer.decode(reference[:2])
    assert out.finish_reason == "stop"
    assert out.stats.num_tokens == 3


def test_the_oracle_is_accepted_in_blocks(case: Case) -> None:
    """Without this the tests of cut blocks would prove nothing."""
    [out] = case.oracle().generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS)
    assert list(out.token_ids) == case.new
    assert out.stats.acceptance_rate == 1.0
    assert out.stats.num_target_passes == 4, "24 tokens: three blocks of seven and the rest"


class AtThree(StoppingCriteria):
    """Ends after three tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any) -> torch.Tensor:
        return torch.tensor([input_ids.shape[1] - 8 >= 3])


@pytest.mark.parametrize("make_llm", [Case.with_draft, Case.oracle])
def test_own_stopping_criterion_ends_at_its_token(case: Case, make_llm: Callable[[Case], LLM]) -> None:
    """transformers overshoots to the end of the accepted block: 7 tokens instead of 3."""
    [out] = make_llm(case).generate(
        prompt_token_ids=[case.ids],
        max_new_tokens=NUM_TOKENS,
        stopping_criteria=StoppingCriteriaList([AtThree()]),
    )
    assert list(out.token_ids) == case.new[:3]
    assert out.stats.num_tokens == 3


def test_acceptance_statistics_come_back(case: Case) -> None:
    """transformers returns sequences and past_key_values only."""
    [out] = case.with_draft().generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS)
    stats = out.stats
    assert stats.num_rounds > 0
    assert stats.num_draft_tokens >= stats.num_rounds
    assert stats.num_tokens == NUM_TOKENS
    assert stats.mean_acceptance_length == stats.num_round_tokens / stats.num_rounds
    assert stats.acceptance_rate == stats.num_accepted_tokens / stats.num_draft_tokens
    assert sum(stats.accepted_per_position) == stats.num_accepted_tokens


def test_an_error_while_drafting_leaves_the_target_as_it_was(case: Case) -> None:
    """transformers' early exit keeps a reduced depth after an error, and plain greedy output changes."""
    draft, config = make(1), copy.deepcopy(case.target.config.to_dict())
    weights = {name: tensor.clone() for name, tensor in case.target.state_dict().items()}
    llm = LLM.from_pretrained((case.target, case.tokenizer), assistant_model=draft, runtime="transformers")
    calls = []

    def fail(module: torch.nn.Module, args: object) -> None:
        calls.append(module)
        if len(calls) == 3:
            raise RuntimeError("the draft model broke")

    handle = draft.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the draft model broke"):
        llm.generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS)
    handle.remove()
    assert case.target.config.to_dict() == config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in case.target.state_dict().items())
    assert plain(case.target, case.ids) == case.new
    [out] = llm.generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS)
    assert list(out.token_ids) == case.new, "the LLM itself goes on too"


def test_early_exit_is_refused_with_what_there_is(case: Case) -> None:
    """Until there are trained exits; transformers takes it and is slower than plain decoding."""
    with pytest.raises(UnknownOptionError, match=r"unknown drafter 'early_exit'.* Known: .*model, ngram"):
        LLM.from_pretrained((case.target, case.tokenizer), assistant_early_exit=2)
    assert case.target.config.num_hidden_layers == 4
    assert plain(case.target, case.ids) == case.new


def test_a_seed_belongs_to_a_request(case: Case) -> None:
    """transformers draws from the global generator: the same call twice gives two texts, and others are disturbed."""
    llm = case.with_draft()
    state = torch.get_rng_state()
    texts = [
        llm.generate(prompt_token_ids=[case.ids], max_new_tokens=NUM_TOKENS, temperature=1.0, seed=seed)[0].token_ids
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(state, torch.get_rng_state())


def test_prompt_lookup_in_transformers_spelling(case: Case) -> None:
    llm = LLM.from_pretrained((case.target, case.tokenizer), prompt_lookup_num_tokens=6, max_matching_ngram_size=2)
    ids = case.ids * 2
    [out] = llm.generate(prompt_token_ids=[ids], max_new_tokens=NUM_TOKENS)
    assert list(out.token_ids) == plain(case.target, ids)
    assert out.stats.num_draft_tokens > 0
