"""What cannot be done is refused with value, limit and remedy; what can is let through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from evodraft import LLM
from evodraft.errors import ConfigError
from evodraft.integrations.transformers.refusals import (
    refuse_batch,
    refuse_config,
    refuse_foreign_model,
    refuse_inputs,
    refuse_view,
)
from evodraft.integrations.transformers.translation import Translated
from evodraft.testing.tiny import tiny_model

IDS = torch.tensor([[0, 5, 6], [7, 8, 9]])
MASK = torch.tensor([[0, 1, 1], [1, 1, 1]])


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM.from_pretrained((tiny_model("llama"), None), drafter="ngram")


def test_another_model_with_the_same_weights_is_refused(llm: LLM) -> None:
    with pytest.raises(ConfigError, match=r"called on a LlamaForCausalLM '' at 0x\w+, but .* decodes a Llama.*build"):
        refuse_foreign_model(llm, tiny_model("llama"))
    refuse_foreign_model(llm, llm.engine.target.decoder.model)  # type: ignore[attr-defined]


def test_a_decoder_without_a_transformers_model_is_refused(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.engine.target, "decoder", object())
    with pytest.raises(ConfigError, match=r"but speculation= decodes no transformers model"):
        refuse_foreign_model(llm, tiny_model("llama"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": 0.5}, r"temperature=0.5 in with_options .* pass temperature= to model.generate"),
        ({"max_tokens": 5}, r"pass max_new_tokens="),
        ({"n": 2}, r"pass num_return_sequences="),
        ({"ignore_eos": True}, r"pass eos_token_id="),
        ({"logprobs": 1}, r"pass return_dict_in_generate=True, output_scores="),
        ({"logits_processor": ()}, r"pass logits_processor="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_generate_decides(llm: LLM, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_view(llm.with_options(**option), 1)


def test_options_that_generate_has_no_word_for(llm: LLM) -> None:
    refuse_view(llm.with_options(seed=1, stop=["a"], speculative=False, presence_penalty=0.5), 3)


def test_a_streamer_follows_one_row(llm: LLM) -> None:
    view = llm.with_options(streamer=BaseStreamer())
    with pytest.raises(ConfigError, match="a streamer follows 1 sequence, and there are 2; leave it out, or call once"):
        refuse_view(view, 2)
    refuse_view(view, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 3}, "generation mode beam_search"),
        ({"num_beams": 3, "do_sample": True}, "generation mode beam_sample"),
        ({"penalty_alpha": 0.5, "top_k": 4}, "generation mode contrastive_search"),
        ({"dola_layers": "low"}, "generation mode dola_generation"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3 asks .* or pass prompt_lookup_num_tokens=None"),
        ({"use_mtp": True}, "use_mtp=True asks transformers to draft"),
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized' changes"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions=True: .* call the model"),
        ({"return_dict_in_generate": True, "output_hidden_states": True}, "output_hidden_states=True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_ways_of_generating(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_config(GenerationConfig(**options))


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"output_attentions": True}, {"use_cache": False}])
def test_ways_that_there_are(options: dict[str, Any]) -> None:
    refuse_config(GenerationConfig(**options))


def filled_cache() -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 4, 8), 0)
    return cache


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"inputs_embeds": torch.zeros(1)}, "would get inputs_embeds, and evodraft feeds token ids only"),
        ({"token_type_ids": IDS, "pixel_values": IDS}, "leave out token_type_ids, pixel_values"),
        ({"past_key_values": filled_cache()}, "past_key_values=DynamicCache of 4 tokens"),
        ({"position_ids": torch.tensor([[1, 2, 3]])}, r"position_ids=\[\[1, 2, 3\]\] do not count"),
        ({"position_ids": torch.tensor([[0, 1, 2]]), "attention_mask": MASK}, "position_ids"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_inputs_beyond_token_ids(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_inputs(inputs, IDS)


def test_inputs_as_transformers_prepares_them() -> None:
    kept = {"use_cache": True, "logits_to_keep": 1, "past_key_values": DynamicCache(), "token_type_ids": None}
    refuse_inputs({**kept, "position_ids": torch.tensor([[0, 1, 2]]), "attention_mask": None}, IDS)
    refuse_inputs({**kept, "position_ids": torch.tensor([[0, 0, 1], [0, 1, 2]]), "attention_mask": MASK}, IDS)
    refuse_inputs({}, IDS)


def call(pad: int | None, *, processors: Any = (), criteria: Any = (), stop_ids: Any = ()) -> Translated:
    return Translated({"stop_token_ids": stop_ids}, processors, criteria, pad)


def test_rows_that_cannot_be_padded(llm: LLM) -> None:
    plain, stopping = llm.with_options(), llm.with_options(stop=["a"])
    for wrong, view in [(call(None, criteria=[len]), plain), (call(None, stop_ids=[3]), plain), (call(None), stopping)]:
        with pytest.raises(ConfigError, match="2 rows may end at different lengths.*pass pad_token_id="):
            refuse_batch(wrong, view, 2)
        refuse_batch(wrong, view, 1)
    refuse_batch(call(None), plain, 2)
    refuse_batch(call(0, criteria=[len]), stopping, 2)


def test_processors_that_look_at_all_rows(llm: LLM) -> None:
    guided = call(0, processors=[UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, None)])
    with pytest.raises(ConfigError, match="UnbatchedClassifierFree.* looks at all rows together, but the 2 rows"):
        refuse_batch(guided, llm.with_options(), 2)
    refuse_batch(guided, llm.with_options(), 1)
