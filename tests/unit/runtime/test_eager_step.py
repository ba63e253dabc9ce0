"""A pass in two parts: all that is special about it is in tensors, and the other part asks nothing of the host.

What a step says is compared with transformers in test_step.py.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evodraft.runtime.cache import SlotCache
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import read_family
from evodraft.runtime.packing import plain_linear
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model

FAMILIES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")


class NothingOfTheHost(TorchDispatchMode):
    """Refuses what reads a value, depends on one, or brings one to the device."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_to_copy", "scalar_tensor")

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert not function.__name__.startswith(self.REFUSED), f"{function} in the part that may be recorded"
        return function(*arguments, **(options or {}))


def weights_of(model):
    return read_family(model, ModelFacts.of(model))


def planned(cache, widths, slots, width=None):
    plan = cache.plan(slots, widths, width or max(widths))
    cache.begin(plan)
    return plan


def random_hidden(*shape, seed=0):
    return torch.randn(*shape, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [1, 4, 20])
def test_running_asks_nothing_of_the_host(family, width):
    step, cache = EagerStep(weights_of(tiny_model(family))), SlotCache(2, num_slots=3, max_length=64)
    plan = planned(cache, [width, 1], [2, 0], width)
    inputs, buffers = step.prepare(plan), step.buffers(cache, plan, 0, 2)
    hidden = random_hidden(2, width)
    with NothingOfTheHost():
        output = step.run(hidden, inputs, buffers, plan.first_slot, 0, taps=(1,))
    assert output.hidden.shape == output.taps[1].shape == hidden.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_is_special_about_a_pass_is_in_its_tensors(family):
    """A pass whose tensors were copied over those of another one is that other one."""
    step, hidden = EagerStep(weights_of(tiny_model(family))), random_hidden(2, 3)
    outputs = []
    for is_copied in (False, True):
        cache = SlotCache(2, num_slots=3, max_length=64)
        first = planned(cache, [9, 5], [0, 1])
        step.layers(random_hidden(2, 9, seed=1), cache, first, 0, 2, ())
        inputs = step.prepare(planned(cache, [2, 3], [0, 2])) if is_copied else None
        cache.commit(first)
        plan = planned(cache, [3, 1], [1, 0])
        if inputs is None:
            inputs = step.prepare(plan)
        else:
            for target, source in zip(inputs.tensors, step.prepare(plan).tensors, strict=True):
                target.copy_(source)
        outputs.append(step.run(hidden, inputs, step.buffers(cache, plan, 0, 2), plan.first_slot, 0, ()).hidden)
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1, :1], outputs[1][1, :1])


def test_a_copy_of_the_tensors_has_memory_of_its_own():
    step, cache = EagerStep(weights_of(tiny_model("llama"))), SlotCache(2, num_slots=1, max_length=64)
    inputs = step.prepare(planned(cache, [3], [0]))
    copied = inputs.clone()
    for original, copy in zip(inputs.tensors, copied.tensors, strict=True):
        assert torch.equal(original, copy)
        assert original.data_ptr() != copy.data_ptr()


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_copied_only_where_they_must_be_joined(family):
    model, made = tiny_model(family), []

    def maker(weight, bias):
        made.append(weight)
        return plain_linear(weight, bias)

    EagerStep(weights_of(model), maker)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    copies = [weight for weight in made if weight.untyped_storage().data_ptr() not in own]
    assert len(copies) == (0 if family == "phi3" else 2 * model.config.num_hidden_layers)
    assert len(made) == 4 * model.config.num_hidden_layers + 1


def test_padding_is_written_nowhere_but_in_the_spare_column():
    step, cache = EagerStep(weights_of(tiny_model("llama"))), SlotCache(2, num_slots=2, max_length=32)
    plan = planned(cache, [2, 4], [0, 1])
    step.layers(random_hidden(2, 4), cache, plan, 0, 2, ())
    for keys, values in step.buffers(cache, plan, 0, 2):
        for buffer in (keys, values):
            assert not buffer[0, :, 2:-1].any()
            assert buffer[0, :, :2].all()
            assert not buffer[1, :, 4:-1].any()


def test_padding_that_is_not_a_number_reaches_nobody():
    step, cache = EagerStep(weights_of(tiny_model("llama"))), SlotCache(2, num_slots=2, max_length=32)
    hidden = random_hidden(2, 4)
    hidden[0, 2:] = torch.nan
    for _ in range(2):
        plan = planned(cache, [2, 4], [0, 1])
        output = step.layers(hidden, cache, plan, 0, 2, ()).hidden
        cache.commit(plan)
        assert output[0, :2].isfinite().all()
        assert output[1].isfinite().all()


def test_tables_grow_between_passes():
    """Positions beyond the first tables, and the first ones again."""
    model = tiny_model("llama", max_position_embeddings=1024)
    step, short, long = EagerStep(weights_of(model)), SlotCache(2, 1, 1024), SlotCache(2, 1, 1024)
    hidden = random_hidden(1, 400)
    outputs = []
    for cache, widths in ((short, [400]), (long, [200, 100, 100])):
        parts = []
        for part in hidden.split(widths, dim=1):
            plan = planned(cache, [part.shape[1]], [0])
            parts.append(step.layers(part, cache, plan, 0, 2, ()).hidden)
            cache.commit(plan)
        outputs.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
