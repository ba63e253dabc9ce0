"""One pass over a model: what is asked of it, and that it is left as it was."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import CapacityError, UnsupportedModelError
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.model_call import ModelCall, evaluating
from evodraft.runtime.support import ModelFacts
from evodraft.runtime.view import SlotView
from evodraft.testing.tiny import tiny_model

IDS = torch.tensor([[3, 4, 5], [6, 7, 0]])


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def view():
    return SlotView(SlotCache(num_layers=2, num_slots=2, max_length=32))


def make_call(model):
    return ModelCall(model, ModelFacts.of(model))


def seen_arguments(model):
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    return seen


def test_logits_that_nobody_reads_are_not_computed(model, view):
    seen = seen_arguments(model)
    output = make_call(model)(view, IDS, [3, 2], [0, 1], want_logits=False)
    assert output.logits is None
    assert seen[0]["logits_to_keep"] == 1
    assert not seen[0]["output_hidden_states"]
    make_call(model)(view, IDS, [3, 2], [0, 1])
    assert "logits_to_keep" not in seen[1]


def test_taps_are_the_hidden_states_that_the_model_reports(model, view):
    output = make_call(model)(view, IDS, [3, 2], [0, 1], taps=(0, 2))
    with torch.no_grad():
        expected = model(IDS[:1], output_hidden_states=True).hidden_states
    assert set(output.taps) == {0, 2}
    for layer, states in output.taps.items():
        torch.testing.assert_close(states[:1], expected[layer])


@pytest.mark.parametrize("layer", [-1, 3])
def test_taps_that_do_not_exist_are_refused(model, view, layer):
    with pytest.raises(UnsupportedModelError, match=rf"tap {layer} is outside 0\.\.2"):
        make_call(model)(view, IDS, [3, 2], [0, 1], taps=(layer,))


def test_results_can_feed_training(model, view):
    output = make_call(model)(view, IDS, [3, 2], [0, 1], taps=(1,))
    weight = torch.ones(32, requires_grad=True)
    ((output.taps[1] * weight).sum() + output.logits.sum()).backward()
    assert weight.grad is not None


def test_configs_that_switch_things_off_do_not_matter(model, view):
    model.config.use_cache = False
    model.config.output_hidden_states = True
    assert make_call(model)(view, IDS, [3, 2], [0, 1]).logits.shape == (2, 3, 64)
    assert view.slot_cache.length(0) == 3


def test_dropout_is_off_and_the_training_flags_come_back():
    model = tiny_model("llama", attention_dropout=0.5)
    model.train()
    model.lm_head.eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert not model.lm_head.training
    assert sum(module.training for module in model.modules()) == len(list(model.modules())) - 1


def test_the_training_flags_come_back_after_an_exception(model, view):
    model.train()
    model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_call(model)(view, IDS, [3, 2], [0, 1])
    assert all(module.training for module in model.modules())
    assert view.slot_cache.length(0) == 0


def test_exhausted_memory_is_a_capacity_error(model, view):
    def exhausted(*_):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    model.lm_head.register_forward_pre_hook(exhausted)
    with pytest.raises(CapacityError, match=r"2 GiB.*lower kv_cache_gib or gpu_memory_utilization"):
        make_call(model)(view, IDS, [3, 2], [0, 1])
    assert view.slot_cache.length(0) == 0
