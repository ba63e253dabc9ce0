"""`custom_generate=`: the tokens of `model.generate`. What assisted generation refuses or gets wrong works here.

The cases of assisted generation that were examined on transformers 5.23, each named in the test that has it:

- "greedy with assistant equals greedy", "batch of 2", "static cache", "fields returned", "stop string done at token 3",
  "own stopping criterion at 3", "custom_generate callable received", "layers left in config after that error":
  reach the drop-in and pass.
- "greedy with early exit equals greedy": reaches it and is refused, because what drafts is chosen in the LLM, which has
  no early exit in this version. The model stays as it was.
- "stop_strings with assistant_model", "stop_strings with early exit", "custom_generate callable with stop_strings and
  tokenizer": do not reach it. transformers raises before, because it takes the tokenizer away from callables. The same
  through `with_options(stop=...)` and through a StopStringCriteria passes.
- "drafting 5 tokens": a measurement of nested `generate` calls, of which there are none here.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any, Final

import peft
import pytest
import torch
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
    WatermarkingConfig,
    pipeline,
)

from evodraft import LLM
from evodraft.errors import ConfigError, EvodraftError, NumericsError
from evodraft.integrations.transformers import SpeculativeOutput, generate
from evodraft.testing import ScriptedDrafter
from evodraft.testing.fit import chi_square_p_value
from evodraft.testing.pairs import PADDED_VOCAB_SIZE, TinyPair, tiny_pair
from evodraft.testing.tiny import SLIDING_WINDOW, tiny_model

NUM_TOKENS: Final = 24
GREEDY: Final = {"max_new_tokens": NUM_TOKENS, "do_sample": False}
PAD: Final = 0
BATCH: Final = ([70, 71, 72, 73, 70, 71], [101, 105], [88], [40, 41, 40, 41, 40])


class Case:
    """A target with a varied greedy text whose third token is a letter not said before, and those who draft for it."""

    def __init__(self) -> None:
        self.ids = list(BATCH[0])
        for seed in range(100):
            self.pair = tiny_pair(seed=seed)
            self.new = self.plain(**GREEDY)[0, len(self.ids) :].tolist()
            letter = self.pair.tokenizer.decode([self.new[2]])
            if self.new.index(self.new[2]) == 2 and letter.isascii() and letter.isalpha() and len(set(self.new)) > 6:
                break
        self.letter = letter

    @property
    def target(self) -> Any:
        return self.pair.target

    def plain(self, ids: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        prompt = torch.tensor([self.ids]) if ids is None else ids
        return self.target.generate(prompt, **{"pad_token_id": PAD, **options})

    def drafted(self, speculation: Any, ids: torch.Tensor | None = None, **options: Any) -> Any:
        return self.plain(ids, custom_generate=generate, speculation=speculation, **options)

    def with_draft(self, **options: Any) -> LLM:
        models = self.pair
        return LLM.from_pretrained(
            (models.target, models.tokenizer),
            assistant_model=(models.draft, models.tokenizer),
            num_assistant_tokens=4,
            **options,
        )

    def oracle(self) -> LLM:
        """Proposes the true continuation, six tokens at a time."""
        text = [*self.ids, *self.new]
        drafter = ScriptedDrafter(
            lambda context: text[len(context)] if len(context) < len(text) else None, vocab_size=PADDED_VOCAB_SIZE
        )
        return LLM.from_pretrained((self.target, self.pair.tokenizer), drafter=drafter, controller="fixed:6")


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.fixture(scope="module")
def llm(case: Case) -> LLM:
    return case.with_draft()


def padded(prompts: tuple[list[int], ...] = BATCH) -> dict[str, torch.Tensor]:
    """Padded on the left, as transformers wants it."""
    longest = max(map(len, prompts))
    rows = [[PAD] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    return {"ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


# --- the cases --------------------------------------------------------------------------------------------------------


def test_greedy_with_assistant_equals_greedy(case: Case, llm: LLM) -> None:
    before = llm.metrics.num_accepted_tokens
    assert torch.equal(case.drafted(llm, **GREEDY), case.plain(**GREEDY))
    assert llm.metrics.num_accepted_tokens > before, "a draft that is never right proves nothing"


def test_greedy_with_early_exit_equals_greedy(case: Case, llm: LLM) -> None:
    with pytest.raises(ConfigError, match=r"assistant_early_exit=2 .*chosen in LLM.from_pretrained"):
        case.drafted(llm, assistant_early_exit=2, **GREEDY)
    assert case.plain(**GREEDY)[0, len(case.ids) :].tolist() == case.new


def test_batch_of_2(case: Case, llm: LLM) -> None:
    prompts = padded(BATCH[:2])
    assert torch.equal(case.drafted(llm, **prompts, **GREEDY), case.plain(**prompts, **GREEDY))


def test_static_cache(case: Case, llm: LLM) -> None:
    assert torch.equal(case.drafted(llm, cache_implementation="static", **GREEDY), case.plain(**GREEDY))


def test_fields_returned(case: Case, llm: LLM) -> None:
    """transformers: sequences and past_key_values."""
    output = case.drafted(llm, **padded(), return_dict_in_generate=True, **GREEDY)
    assert isinstance(output, SpeculativeOutput)
    assert list(output.keys()) == ["sequences", "speculation", "exact"]
    assert output.exact is True
    assert len(output.speculation) == len(BATCH)
    for stats, ids in zip(output.speculation, BATCH, strict=True):
        assert stats.num_prompt_tokens == len(ids)
        assert stats.num_tokens == NUM_TOKENS
        assert 1.0 <= stats.mean_acceptance_length <= 5.0
    assert any(stats.num_accepted_tokens > 0 for stats in output.speculation)


@pytest.mark.parametrize("drafts", ["with_draft", "oracle"])
@pytest.mark.parametrize("way", ["with_options", "criterion"])
def test_stop_string_done_at_token_3(case: Case, drafts: str, way: str) -> None:
    """transformers emits 24 tokens where an accepted block runs over the string."""
    llm, tokenizer = getattr(case, drafts)(), case.pair.tokenizer
    expected = case.plain(tokenizer=tokenizer, stop_strings=[case.letter], **GREEDY)
    if way == "with_options":
        got = case.drafted(llm.with_options(stop=[case.letter]), **GREEDY)
    else:
        criterion = StopStringCriteria(tokenizer, [case.letter])
        got = case.drafted(llm, stopping_criteria=StoppingCriteriaList([criterion]), **GREEDY)
    assert expected.shape[1] == len(case.ids) + 3
    assert torch.equal(got, expected)


class AtThree(StoppingCriteria):
    """Ends after three tokens, and remembers how often it was asked."""

    def __init__(self, num_prompt: int) -> None:
        self.num_prompt, self.lengths = num_prompt, []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        self.lengths.append(input_ids.shape[1] - self.num_prompt)
        return torch.tensor([input_ids.shape[1] - self.num_prompt >= 3])


@pytest.mark.parametrize("drafts", ["with_draft", "oracle"])
def test_own_stopping_criterion_at_3(case: Case, drafts: str) -> None:
    """transformers overshoots to the end of the accepted block: 7 tokens."""
    criterion = AtThree(len(case.ids))
    got = case.drafted(getattr(case, drafts)(), stopping_criteria=StoppingCriteriaList([criterion]), **GREEDY)
    assert got[0, len(case.ids) :].tolist() == case.new[:3]
    assert criterion.lengths == [1, 2, 3], "asked after every token, and not beyond the stop"


class Listener:
    """A streamer that takes one sequence and keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[list[int]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.num_ends = 0

    def put(self, value: torch.Tensor) -> None:
        self.shapes.append(tuple(value.shape))
        self.got.append(value.flatten().tolist())

    def end(self) -> None:
        self.num_ends += 1


def test_custom_generate_callable_received(case: Case, llm: LLM) -> None:
    """transformers takes `streamer=` away from a callable; through `with_options` it gets what plain decoding puts."""
    lost, ours, theirs = Listener(), Listener(), Listener()
    case.drafted(llm, streamer=lost, **GREEDY)
    assert (len(lost.got), lost.num_ends) == (1, 0), "if this changes, the docs must"
    case.drafted(llm.with_options(streamer=ours), **GREEDY)
    case.plain(streamer=theirs, **GREEDY)
    assert ours.got == theirs.got == [case.ids, *([token_id] for token_id in case.new)]
    assert ours.shapes == theirs.shapes
    assert ours.num_ends == theirs.num_ends == 1


def test_layers_left_in_config_after_that_error(case: Case) -> None:
    """Whatever breaks while drafting or checking: the model, its configs and its texts stay as they were."""
    model = case.target
    before = (
        copy.deepcopy(model.config.to_dict()),
        copy.deepcopy(model.generation_config.to_dict()),
        dict(vars(model)),
    )
    llm, calls = case.with_draft(runtime="transformers"), []

    def fail(module: torch.nn.Module, args: Any) -> None:
        calls.append(module)
        if len(calls) == 3:
            raise RuntimeError("the draft model broke")

    handle = case.pair.draft.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the draft model broke"):
        case.drafted(llm, **GREEDY)
    handle.remove()
    assert (model.config.to_dict(), model.generation_config.to_dict(), dict(vars(model))) == before
    assert case.plain(**GREEDY)[0, len(case.ids) :].tolist() == case.new
    assert case.drafted(llm, **GREEDY)[0, len(case.ids) :].tolist() == case.new, "the LLM goes on too"


@pytest.mark.parametrize("options", [{}, {"assistant_early_exit": 1}], ids=["plain", "early exit"])
def test_custom_generate_callable_with_stop_strings_and_tokenizer(
    case: Case, llm: LLM, options: Mapping[str, Any]
) -> None:
    """Also "stop_strings with assistant_model" and "with early exit": transformers raises before we are called."""
    before = llm.metrics.num_target_passes
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        case.drafted(llm, tokenizer=case.pair.tokenizer, stop_strings=[case.letter], **options, **GREEDY)
    assert llm.metrics.num_target_passes == before
    assert case.plain(**GREEDY)[0, len(case.ids) :].tolist() == case.new


# --- equal to plain decoding, whatever is asked for ---------------------------------------------------------------

ASKED: Final[Mapping[str, Mapping[str, Any]]] = {
    "nothing": {},
    "end id": {"eos_token_id": 238},
    "end ids": {"eos_token_id": [238, 162, 9]},
    "max_length": {"max_new_tokens": None, "max_length": 13},
    "one token": {"max_new_tokens": 1},
    "default length": {"max_new_tokens": None},
    "min_new_tokens": {"min_new_tokens": 12, "eos_token_id": [238, 162]},
    "min_length": {"min_length": 14, "eos_token_id": [238, 162]},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "sequence_bias": {"sequence_bias": [[[238], -4.0], [[204, 162], 3.0]]},
    "bad_words_ids": {"bad_words_ids": [[238], [204, 9]]},
    "suppress_tokens": {"suppress_tokens": [238, 162]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [108, 19]},
    "forced_eos_token_id": {"forced_eos_token_id": 7},
    "exponential_decay": {"exponential_decay_length_penalty": (3, 1.4), "eos_token_id": 238},
    "watermark": {"watermarking_config": WatermarkingConfig()},
    "renormalize_logits": {"renormalize_logits": True},
    "no cache": {"use_cache": False},
    "fields of no result": {"output_attentions": True, "output_hidden_states": True},
    "much time": {"max_time": 1e6},
    "allowed ids": {
        "prefix_allowed_tokens_fn": lambda row, sequence: range(20 * row, 20 * row + 40 + len(sequence) % 3)
    },
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("num_rows", [1, len(BATCH)])
def test_equal_to_plain_generate(case: Case, llm: LLM, name: str, num_rows: int) -> None:
    options = {**GREEDY, **padded(BATCH[:num_rows]), **ASKED[name]}
    with pytest.warns(UserWarning, match="max_length") if name == "default length" else NothingToWarn():
        expected, got = case.plain(**options), case.drafted(llm, **options)
    assert torch.equal(got, expected)
    assert got.dtype == expected.dtype


class NothingToWarn:
    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


@pytest.mark.parametrize(
    "options",
    [{"guidance_scale": 1.5}, {"encoder_repetition_penalty": 1.5}, {"encoder_no_repeat_ngram_size": 2}],
    ids=lambda options: next(iter(options)),
)
def test_processors_that_look_at_all_rows(case: Case, llm: LLM, options: Mapping[str, Any]) -> None:
    """Stateful or bound to the prompts: right for one row, refused for several."""
    assert torch.equal(case.drafted(llm, **options, **GREEDY), case.plain(**options, **GREEDY))
    with pytest.raises(ConfigError, match=r"looks at all rows together, but the 4 rows"):
        case.drafted(llm, **padded(), **options, **GREEDY)


def test_rows_that_end_apart_are_padded(case: Case, llm: LLM) -> None:
    options = {**padded(), "eos_token_id": case.new[3], **GREEDY}
    expected = case.plain(**options)
    assert PAD in expected[0, len(case.ids) :] or PAD in expected[:, -1], "all rows end together"
    assert torch.equal(case.drafted(llm, **options), expected)


def test_fewer_slots_than_rows(case: Case) -> None:
    prompts = padded()
    assert torch.equal(case.drafted(case.with_draft(max_batch=2), **prompts, **GREEDY), case.plain(**prompts, **GREEDY))


def test_plain_decoding_in_our_runtime(case: Case, llm: LLM) -> None:
    output = case.drafted(llm.with_options(speculative=False), return_dict_in_generate=True, **GREEDY)
    assert output.sequences[0, len(case.ids) :].tolist() == case.new
    assert output.speculation[0].num_draft_tokens == 0


def test_a_hole_in_the_mask_is_left_out_as_transformers_does(case: Case, llm: LLM) -> None:
    options = {"attention_mask": torch.tensor([[1, 0, 1, 1, 0, 1]]), **GREEDY}
    assert torch.equal(case.drafted(llm, **options), case.plain(**options))


@pytest.mark.parametrize("family", ["mistral", "gemma2", "llama4"])
def test_a_hole_in_the_mask_counts_in_a_window(family: str) -> None:
    """transformers counts the hole, we do not: within the window that changes nothing, beyond it is refused."""
    model = tiny_model(family)
    llm = LLM.from_pretrained((model, None), drafter="ngram")
    prompt, mask = torch.tensor([[4, 9, 7, 4, 6]]), torch.tensor([[1, 0, 1, 1, 1]])
    options = {"attention_mask": mask, "pad_token_id": PAD, "do_sample": False}
    short, long = {**options, "max_length": SLIDING_WINDOW}, {**options, "max_length": 2 * SLIDING_WINDOW}
    expected = model.generate(prompt, **short)
    assert torch.equal(model.generate(prompt, custom_generate=generate, speculation=llm, **short), expected)
    with pytest.raises(ConfigError, match=r"look back 7 tokens, of which transformers counts .* keep max_length <= 7"):
        model.generate(prompt, custom_generate=generate, speculation=llm, **long)
    unpadded = {**long, "attention_mask": torch.ones_like(prompt)}
    expected = model.generate(prompt, **unpadded)
    assert torch.equal(model.generate(prompt, custom_generate=generate, speculation=llm, **unpadded), expected)


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma2"])
def test_other_families(family: str) -> None:
    pair = tiny_pair(family)
    llm = LLM.from_pretrained((pair.target, pair.tokenizer), assistant_model=pair.draft)
    prompts = padded()
    options = {"attention_mask": prompts["attention_mask"], "pad_token_id": PAD, **GREEDY}
    got = pair.target.generate(prompts["ids"], custom_generate=generate, speculation=llm, **options)
    assert torch.equal(got, pair.target.generate(prompts["ids"], **options))


class Counting(LogitsProcessor):
    """Forbids what it has seen, and keeps the lengths it was asked at."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.lengths.append(input_ids.shape[1])
        return scores.scatter(1, input_ids, -torch.inf)


def test_own_processor_runs_once_per_position_in_order(case: Case, llm: LLM) -> None:
    ours, theirs = Counting(), Counting()
    got = case.drafted(llm, logits_processor=LogitsProcessorList([ours]), **GREEDY)
    assert torch.equal(got, case.plain(logits_processor=LogitsProcessorList([theirs]), **GREEDY))
    assert ours.lengths == theirs.lengths


class LongRowsEnd(StoppingCriteria):
    """Ends each row when its own tokens say so."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        return (input_ids[:, 6:] > 150).sum(dim=-1) >= 3


def test_own_criterion_ends_each_row_on_its_own(case: Case, llm: LLM) -> None:
    options = {**padded(), "eos_token_id": 263, "stopping_criteria": StoppingCriteriaList([LongRowsEnd()]), **GREEDY}
    expected = case.plain(**options)
    assert len({int((row[6:] != PAD).sum()) for row in expected}) > 1, "all rows end together"
    assert torch.equal(case.drafted(llm, **options), expected)


def test_without_an_end_id_an_ended_row_is_padded(case: Case, llm: LLM) -> None:
    """transformers goes on writing into it until the last row has ended; up to its end the row is the same."""
    options = {**padded(), "stopping_criteria": StoppingCriteriaList([LongRowsEnd()]), **GREEDY}
    theirs, ours = case.plain(**options), case.drafted(llm, **options)
    assert ours.shape == theirs.shape
    assert not torch.equal(ours, theirs), "all rows end together"
    for own, their in zip(ours[:, 6:], theirs[:, 6:], strict=True):
        num_tokens = next(n for n in range(1, NUM_TOKENS + 1) if n == NUM_TOKENS or (their[:n] > 150).sum() >= 3)
        assert own.tolist() == [*their[:num_tokens].tolist(), *[PAD] * (len(own) - num_tokens)]


def test_pipelines_pass_the_arguments_on(case: Case, llm: LLM) -> None:
    write = pipeline("text-generation", model=case.target, tokenizer=case.pair.tokenizer)
    before = llm.metrics.num_accepted_tokens
    got = write("hello", custom_generate=generate, speculation=llm, pad_token_id=PAD, **GREEDY)
    assert got == write("hello", pad_token_id=PAD, **GREEDY)
    assert llm.metrics.num_accepted_tokens > before


def test_nan_scores_are_an_error(case: Case) -> None:
    """transformers repairs them with `remove_invalid_values`, and without it writes nonsense."""
    llm = case.with_draft(runtime="transformers")  # a hook stands for a model that says NaN
    is_broken = torch.arange(PADDED_VOCAB_SIZE) == 5
    handle = case.target.lm_head.register_forward_hook(lambda module, args, out: torch.where(is_broken, torch.nan, out))
    with pytest.raises(NumericsError, match="returned NaN"):
        case.drafted(llm, remove_invalid_values=True, **GREEDY)
    handle.remove()
    assert torch.equal(case.drafted(llm, **GREEDY), case.plain(**GREEDY))


@pytest.mark.parametrize("do_sample", [False, True])
def test_scores_and_logits(case: Case, llm: LLM, do_sample: bool) -> None:
    """Values, and what transformers computes from them; sampled texts differ, so only their first step is compared."""
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9} if do_sample else {}
    options = {**GREEDY, **padded(), **wanted, "repetition_penalty": 1.2, **sampling}
    ours, theirs = case.drafted(llm, **options), case.plain(**options)
    assert len(ours.scores) == len(ours.logits) == ours.sequences.shape[1] - len(case.ids)
    for step in range(1 if do_sample else NUM_TOKENS):
        torch.testing.assert_close(ours.scores[step], theirs.scores[step], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.logits[step], theirs.logits[step], atol=1e-4, rtol=1e-4)
    scored = case.target.compute_transition_scores(ours.sequences, ours.scores, normalize_logits=True)
    assert scored.shape == (len(BATCH), NUM_TOKENS)
    assert bool((scored <= 0).all())
    assert bool(scored.isfinite().all())


def test_scores_of_a_row_that_has_ended(case: Case, llm: LLM) -> None:
    options = {**GREEDY, **padded(), "eos_token_id": case.new[3], "return_dict_in_generate": True}
    output = case.drafted(llm, output_scores=True, **options)
    ended = output.scores[4][0]
    assert output.sequences[0, len(case.ids) + 4] == PAD
    assert (ended[PAD], ended.isneginf().sum()) == (0.0, len(ended) - 1)
    assert len(output.scores) == output.sequences.shape[1] - len(case.ids)


# --- sampling -----------------------------------------------------------------------------------------------------

LAWS: Final[Mapping[str, Mapping[str, Any]]] = {
    "softmax": {"top_k": 0},
    "ours": {"temperature": 0.8, "top_k": 6, "top_p": 0.9, "min_p": 0.02},
    "theirs": {"temperature": 0.8, "typical_p": 0.9, "repetition_penalty": 1.3},
    "mixed": {"temperature": 1.5, "top_k": 5, "no_repeat_ngram_size": 1},
}


@pytest.mark.parametrize(
    ("law", "verifier"), [("softmax", "auto"), ("ours", "auto"), ("theirs", "rejection"), ("mixed", "rejection")]
)
def test_sampled_pairs_follow_the_law_of_transformers(law: str, verifier: str) -> None:
    """Pearson's test of two-token texts against the laws that transformers' own processors give. Seeds are fixed."""
    model = tiny_model("llama", vocab_size=6, seed=3)
    draft = tiny_model("llama", vocab_size=6, seed=4)
    llm = LLM.from_pretrained(
        (model, None), assistant_model=draft, controller="fixed:2", verifier=verifier, max_batch=64
    )
    prompt, options = torch.tensor([[1, 2, 3]]), {"do_sample": True, "max_new_tokens": 2, **LAWS[law]}
    expected = two_token_law(model, prompt, options)
    torch.manual_seed(1)
    rows = model.generate(prompt, num_return_sequences=400, custom_generate=generate, speculation=llm, **options)
    counts: dict[tuple[int, int], int] = {}
    for pair in map(tuple, rows[:, 3:].tolist()):
        counts[pair] = counts.get(pair, 0) + 1
    assert chi_square_p_value(counts, expected) > 1e-3
    assert llm.metrics.num_accepted_tokens > 0


def two_token_law(model: Any, prompt: torch.Tensor, options: Mapping[str, Any]) -> dict[tuple[int, int], float]:
    """The probability of every pair, from the scores that transformers itself returns."""

    def law(ids: torch.Tensor) -> list[float]:
        one = {**options, "max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True}
        scores = model.generate(ids, attention_mask=torch.ones_like(ids), **one).scores  # id 0 is no padding here
        return scores[0][0].softmax(dim=-1).tolist()

    pairs = {}
    for first, mass in enumerate(law(prompt)):
        if mass > 0:
            after = law(torch.cat([prompt, torch.tensor([[first]])], dim=-1))
            pairs.update({(first, second): mass * other for second, other in enumerate(after)})
    return pairs


SAMPLED: Final = {"max_new_tokens": 16, "do_sample": True, "temperature": 0.9, "top_k": 40}


def sampled(case: Case, speculation: Any, seed: int = 3, **options: Any) -> list[list[int]]:
    torch.manual_seed(seed)
    return case.drafted(speculation, **{**padded(), **SAMPLED, **options}).tolist()


def test_torch_manual_seed_makes_it_reproducible_whatever_drafts(case: Case, llm: LLM) -> None:
    texts = sampled(case, llm)
    assert sampled(case, llm) == texts
    assert sampled(case, llm.with_options(speculative=False)) == texts
    assert sampled(case, case.with_draft(max_batch=1)) == texts
    assert sampled(case, llm, seed=4) != texts


def test_greedy_decoding_leaves_torchs_generator_alone(case: Case, llm: LLM) -> None:
    state = torch.get_rng_state()
    case.drafted(llm, **GREEDY)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_of_our_own(case: Case, llm: LLM) -> None:
    """Names the same text as in LLM.generate, and leaves torch's generator alone; other rows have seeds derived."""
    state = torch.get_rng_state()
    view = llm.with_options(seed=7)
    row = case.drafted(view, **SAMPLED)[0, len(case.ids) :].tolist()
    [own] = llm.generate(
        prompt_token_ids=[case.ids], max_new_tokens=16, temperature=0.9, top_k=40, seed=7, ignore_eos=True
    )
    assert row == list(own.token_ids)
    rows = case.drafted(view, num_return_sequences=3, **SAMPLED)[:, len(case.ids) :].tolist()
    assert rows[0] == row
    assert len({tuple(sample) for sample in rows}) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_several_samples_of_one_prompt(case: Case, llm: LLM) -> None:
    """transformers: num_return_sequences has to be 1 when doing assisted generate."""
    torch.manual_seed(0)
    got = case.drafted(llm, **padded(BATCH[:2]), num_return_sequences=3, **SAMPLED)
    assert got.shape[0] == 6
    assert got[:, : len(case.ids)].tolist() == [padded(BATCH[:2])["ids"][row].tolist() for row in (0, 0, 0, 1, 1, 1)]
    assert len({tuple(row) for row in got[:, len(case.ids) :].tolist()}) == 6


# --- streaming ----------------------------------------------------------------------------------------------------


def test_text_iterator_streamer_in_a_thread(case: Case, llm: LLM) -> None:
    streamer = TextIteratorStreamer(case.pair.tokenizer, skip_prompt=True, timeout=60)
    options = {"custom_generate": generate, "speculation": llm.with_options(streamer=streamer), **GREEDY}
    thread = threading.Thread(target=case.target.generate, args=(torch.tensor([case.ids]),), kwargs=options)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == case.pair.tokenizer.decode(case.new)


class Breaks(LogitsProcessor):
    """Fails at the third token of a prompt of six."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == 8:
            raise ValueError("no idea")
        return scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "beam_search"),
        ({"max_new_tokens": 10**6}, "exceeds the limit"),
        ({"logits_processor": LogitsProcessorList([Breaks()])}, r"processor Breaks raised ValueError\('no idea'\)"),
    ],
    ids=["refused", "refused by the engine", "fails on the way"],
)
def test_the_stream_ends_whatever_happens(case: Case, llm: LLM, options: Mapping[str, Any], message: str) -> None:
    """transformers leaves a reader in another thread waiting."""
    listener = Listener()
    with pytest.raises(EvodraftError, match=message):
        case.drafted(llm.with_options(streamer=listener), **{**GREEDY, **options})
    assert listener.num_ends == 1
    assert not llm.engine.has_work, "a failed call leaves nothing running"


class Deaf(Listener):
    def put(self, value: torch.Tensor) -> None:
        super().put(value)
        if len(self.got) == 3:
            raise ConnectionError("the client has gone")


def test_a_streamer_that_fails_ends_the_call(case: Case, llm: LLM) -> None:
    listener = Deaf()
    with pytest.raises(ConnectionError, match="the client has gone"):
        case.drafted(llm.with_options(streamer=listener), **GREEDY)
    assert listener.num_ends == 1
    assert not llm.engine.has_work


# --- models in wrappers -------------------------------------------------------------------------------------------


def peft_pair(config: Any) -> tuple[TinyPair, Any]:
    pair = tiny_pair()
    torch.manual_seed(0)
    return pair, peft.get_peft_model(copy.deepcopy(pair.target), config).eval()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
def test_lora(case: Case) -> None:
    """peft hands generate on to the model inside; the LLM holds the wrapper."""
    pair, model = peft_pair(peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    llm = LLM.from_pretrained((model, pair.tokenizer), assistant_model=pair.draft)
    ids = torch.tensor([case.ids])
    expected = model.generate(input_ids=ids, **GREEDY)
    assert not torch.equal(expected, pair.target.generate(ids, **GREEDY)), "the adapter does nothing"
    assert torch.equal(model.generate(input_ids=ids, custom_generate=generate, speculation=llm, **GREEDY), expected)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_prompt_tuning_is_refused(case: Case) -> None:
    """It feeds more than the prompt, which the LLM of the model inside does not know."""
    pair, model = peft_pair(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    llm = LLM.from_pretrained((model.get_base_model(), pair.tokenizer), drafter="ngram")
    with pytest.raises(ConfigError, match="prepared by a PeftModelForCausalLM"):
        model.generate(input_ids=torch.tensor([case.ids]), custom_generate=generate, speculation=llm, **GREEDY)


def test_a_cache_of_the_caller_is_refused(case: Case, llm: LLM) -> None:
    with pytest.raises(ConfigError, match="past_key_values=DynamicCache of 0 tokens"):
        case.drafted(llm, past_key_values=DynamicCache(), **GREEDY)
