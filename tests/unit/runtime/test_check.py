"""The start-up check must let right models through and catch wrong ones."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import CapacityError, UnsupportedModelError
from evodraft.runtime.base import DecoderOutput
from evodraft.runtime.check import CHECKED_LENGTH, check_decoder, check_model
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.masks import FULL_ATTENTION, MaskBuilder
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import TINY_FAMILIES, tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_family_passes(family, dtype):
    model = tiny_model(family).to(dtype)
    facts = ModelFacts.of(model)
    observed = check_model(model, facts)
    assert observed.bytes_per_token == facts.bytes_per_token
    assert observed.kinds == facts.kinds


def positions_from_zero(inputs):
    return inputs._replace(position_ids=torch.arange(inputs.position_ids.shape[1]).expand_as(inputs.position_ids))


def mask_of_everything(inputs):
    return inputs._replace(attention_mask=torch.ones_like(inputs.attention_mask))


def mask_of_the_longest_row(inputs):
    return inputs._replace(attention_mask=inputs.attention_mask.any(dim=0, keepdim=True))


# In bfloat16 the smaller mistakes of a random model hide in what rounding may do; those of a trained one do not.
@pytest.mark.parametrize(
    ("wrong", "dtype"),
    [
        (positions_from_zero, torch.float32),
        (mask_of_the_longest_row, torch.float32),
        (mask_of_everything, torch.float32),
        (mask_of_everything, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "gpt_neox", "mixtral"])
def test_a_model_that_ignores_masks_or_positions_is_refused(monkeypatch, wrong, family, dtype):
    """Feeding it wrong inputs is as good as the model ignoring right ones."""
    build = MaskBuilder.build
    monkeypatch.setattr(MaskBuilder, "build", lambda self, step: wrong(build(self, step)))
    model = tiny_model(family).to(dtype)
    with pytest.raises(
        UnsupportedModelError, match=r"differently from plain text: logits differ by .*self_check=False"
    ):
        check_model(model, ModelFacts.of(model))


def test_a_model_that_sees_the_future_is_refused():
    model = tiny_model("gemma3", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModelError, match="differently"):
        check_model(model, ModelFacts.of(model))


def test_a_model_that_fails_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(UnsupportedModelError, match=r"failed on a ragged pass.*ZeroDivisionError: division by zero"):
        check_model(model, ModelFacts.of(model))


def test_exhausted_memory_keeps_its_name():
    def exhausted(*_):
        raise torch.OutOfMemoryError("no")

    model = tiny_model("llama")
    model.lm_head.register_forward_pre_hook(exhausted)
    with pytest.raises(CapacityError):
        check_model(model, ModelFacts.of(model))


def test_nan_of_the_models_own_is_left_to_the_requests():
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    check_model(model, ModelFacts.of(model))


def test_a_window_that_the_architecture_ignores_is_dropped():
    model = tiny_model("llama", sliding_window=5)
    assert check_model(model, ModelFacts.of(model)).kinds == (FULL_ATTENTION,)


def test_it_costs_three_passes_over_few_tokens():
    model = tiny_model("llama")
    sizes = []
    model.register_forward_hook(
        lambda module, args, kwargs, output: sizes.append(output.logits.shape[:2].numel()), with_kwargs=True
    )
    check_model(model, ModelFacts.of(model))
    assert sizes == [4, 4, 6]


# ---- decoders that compute by themselves -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_reference_passes(family, dtype):
    model = tiny_model(family).to(dtype)
    check_decoder(HfDecoder(model, num_slots=2, max_length=CHECKED_LENGTH), model, ModelFacts.of(model))


def another_model(model, scored):
    return HfDecoder(tiny_model("llama", seed=1), num_slots=2, max_length=CHECKED_LENGTH).forward(**scored).logits


def chains_for_trees(model, scored):
    scored = scored | {"parents": None}
    return model.forward(**scored).logits


def rows_mixed_up(model, scored):
    return model.forward(**scored).logits.flip(0)


def no_numbers(model, scored):
    return model.forward(**scored).logits * torch.nan


@pytest.mark.parametrize("wrong", [another_model, chains_for_trees, rows_mixed_up, no_numbers])
def test_a_decoder_that_says_something_else_is_refused(wrong):
    model = tiny_model("llama")
    decoder = HfDecoder(model, num_slots=2, max_length=CHECKED_LENGTH)

    class Wrong:
        def forward(self, token_ids, **scored):
            return DecoderOutput(wrong(decoder, {"token_ids": token_ids, **scored}))

    with pytest.raises(UnsupportedModelError, match=r"says something else than its modules: .*take another runtime"):
        check_decoder(Wrong(), model, ModelFacts.of(model))
