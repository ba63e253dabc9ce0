"""A fault behind a token that plain decoding would not have reached changes nothing; one that it would reach, counts.

Plain decoding of the same engine is the reference: same tokens, same finish reason, same error.
"""

from __future__ import annotations

import pytest
import torch

from evodraft import LLM
from evodraft.controllers import FixedConfig, FixedController
from evodraft.engine import Engine
from evodraft.params import SamplingParams
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import ScriptedController, ScriptedDrafter, TableDecoder, TableLM
from evodraft.testing.tiny import tiny_model
from evodraft.testing.trees import TreeDrafter
from evodraft.types import Plan, Request
from evodraft.verifiers import VERIFIERS

LAW = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)  # never says 2


class _PoisonedAfterTwo(TableDecoder):
    """Logits after token 2 are NaN."""

    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        if output.logits is not None:
            output.logits[token_ids == 2] = torch.nan
        return output


def _refuses_from_length_three(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if input_ids.shape[1] >= 3:
        raise ValueError("the grammar is over")
    return scores


def _run(decoder: TableDecoder, verifier: str, drafter: object, **options: object) -> Session:
    controller = None if drafter is None else FixedController(FixedConfig(3))
    engine = Engine(Target(decoder), VERIFIERS[verifier].build(None), drafter, controller)
    params = SamplingParams(max_new_tokens=6, temperature=1.0)
    session = engine.submit(Request("r", (0,), params, seed=3, is_seed_chosen=True, **options))
    while engine.has_work:
        engine.step()
    assert engine.metrics.num_failed_requests == (session.error is not None)
    return session


def _always(token_id: int) -> ScriptedDrafter:
    return ScriptedDrafter(lambda tokens: token_id, vocab_size=3)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_nan_behind_a_rejected_token_is_never_seen(verifier: str) -> None:
    decoder = _PoisonedAfterTwo(TableLM(LAW.repeat(3, 1), order=1))
    session = _run(decoder, verifier, _always(2))
    assert session.error is None
    assert session.num_tokens == 6
    assert session.stats().num_accepted_tokens == 0


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_nan_behind_an_accepted_token_fails_the_request_where_plain_decoding_would(verifier: str) -> None:
    law = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)  # 0 1 2
    plain = _run(_PoisonedAfterTwo(TableLM(law, order=1)), verifier, None)
    successor = ScriptedDrafter(lambda tokens: (tokens[-1] + 1) % 3, vocab_size=3)
    fast = _run(_PoisonedAfterTwo(TableLM(law, order=1)), verifier, successor)
    assert fast.output_ids == plain.output_ids == (1, 2)
    assert str(fast.error) == str(plain.error)
    assert "position 3" in str(fast.error)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_stop_inside_an_accepted_block_comes_before_a_fault_behind_it(verifier: str) -> None:
    law = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    options = {
        "logits_processors": (_refuses_from_length_three,),
        "stop_checks": (lambda token_ids: len(token_ids) >= 3,),
    }
    successor = ScriptedDrafter(lambda tokens: (tokens[-1] + 1) % 3, vocab_size=3)
    plain = _run(TableDecoder(TableLM(law, order=1)), verifier, None, **options)
    fast = _run(TableDecoder(TableLM(law, order=1)), verifier, successor, **options)
    for session in (plain, fast):
        assert (session.finish_reason, session.error, session.output_ids) == ("stop", None, (1, 2))


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_what_was_accepted_before_a_fault_stays(verifier: str) -> None:
    law = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    options = {"logits_processors": (_refuses_from_length_three,)}
    successor = ScriptedDrafter(lambda tokens: (tokens[-1] + 1) % 3, vocab_size=3)
    plain = _run(TableDecoder(TableLM(law, order=1)), verifier, None, **options)
    fast = _run(TableDecoder(TableLM(law, order=1)), verifier, successor, **options)
    assert fast.output_ids == plain.output_ids == (1, 2)
    assert "the grammar is over" in str(fast.error)
    assert str(fast.error) == str(plain.error)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_nan_behind_a_sibling_is_never_seen(verifier: str) -> None:
    """Both siblings are scored; only the row behind the accepted one is asked for."""
    siblings = TreeDrafter(ScriptedDrafter(lambda tokens: [0.1, 0.3, 0.6], 3), lambda context, growth: [-1, -1, -1])
    controller = ScriptedController([Plan(2, 3)])
    engine = Engine(
        Target(_PoisonedAfterTwo(TableLM(LAW.repeat(3, 1), 1))), VERIFIERS[verifier].build(None), siblings, controller
    )
    session = engine.submit(Request("r", (0,), SamplingParams(6, temperature=1.0), seed=3))
    while engine.has_work:
        engine.step()
    assert session.error is None
    assert session.num_tokens == 6
    assert session.stats().num_accepted_tokens > 0


def test_a_sibling_that_breaks_the_model_is_harmless_where_it_is_never_said() -> None:
    """The tree is scored again along the accepted path, which then stands in the cache as a chain."""
    model = tiny_model("llama", vocab_size=64, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = torch.nan
    options = {"max_new_tokens": 20, "ignore_eos": True, "logit_bias": {50: -torch.inf}}
    prompts = [[1, 2, 3], [4], [5, 6]]
    plain = LLM.from_pretrained((model, None), drafter=None).generate(prompt_token_ids=prompts, **options)
    texts = [[*prompt, *out.token_ids] for prompt, out in zip(prompts, plain, strict=True)]

    def offer(tokens: tuple[int, ...]) -> list[float]:
        """The token that breaks the model, and now and then the right one."""
        right = next((text[len(tokens)] for text in texts if tuple(text[: len(tokens)]) == tokens != tuple(text)), 7)
        return [0.5 if token_id == 50 else 0.4 if token_id == right else 0.001 for token_id in range(64)]

    drafter = TreeDrafter(ScriptedDrafter(offer, 64), lambda context, growth: [-1, -1, 1, 1, 3][: growth.num_nodes])
    controller = ScriptedController([Plan(3, 5), Plan(1, 2)])
    llm = LLM.from_pretrained((model, None), drafter=drafter, controller=controller)
    for _ in range(2):
        fast = llm.generate(prompt_token_ids=prompts, **options)
        assert [out.error for out in fast] == [None] * 3
        assert [out.token_ids for out in fast] == [out.token_ids for out in plain]
        assert all(out.stats.num_accepted_tokens > 3 for out in fast)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_token_that_breaks_the_model_is_harmless_where_it_is_never_said(
    value: float, attention: str, batch: int
) -> None:
    """Its keys and values reach even earlier rows of the same pass, through zero times NaN."""
    model = tiny_model("llama", vocab_size=64, seed=0, attn_implementation=attention)
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = value
    options = {"max_new_tokens": 20, "ignore_eos": True, "logit_bias": {50: -torch.inf}}
    prompts = [[1, 2, 3], [4], [5, 6]][:batch]
    drafter = ScriptedDrafter(lambda tokens: 50 if len(tokens) % 3 else 7, vocab_size=64)
    plain = LLM.from_pretrained((model, None), drafter=None).generate(prompt_token_ids=prompts, **options)
    llm = LLM.from_pretrained((model, None), drafter=drafter, controller="fixed:3")
    for _ in range(2):  # the slots are clean for whoever comes next
        fast = llm.generate(prompt_token_ids=prompts, **options)
        assert [out.error for out in fast] == [None] * batch
        assert [out.token_ids for out in fast] == [out.token_ids for out in plain]
