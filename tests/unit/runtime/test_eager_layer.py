"""Few operators per layer, no copy that the model's own layout makes needless, and padding that reaches nobody."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evodraft.runtime.cache import SlotCache
from evodraft.runtime.eager_layer import FOLDED_WIDTH, is_folded, joined_linear
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import Matrix, read_family
from evodraft.runtime.packing import plain_linear
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model


class Operators(TorchDispatchMode):
    """Names of the operators that touch memory."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if not function.is_view and function is not torch.ops.aten._unsafe_view.default:
            self.names.append(function.__name__.partition(".")[0])
        return function(*arguments, **(options or {}))


def operators_of_a_layer(family, slots, width, **changes):
    model = tiny_model(family, **changes)
    step, cache = EagerStep(read_family(model, ModelFacts.of(model))), SlotCache(2, num_slots=4, max_length=64)
    plan = cache.plan(slots, [width] * len(slots), width)
    cache.begin(plan)
    hidden = step.embed(torch.ones(len(slots), width, dtype=torch.long))
    inputs, buffers = step.prepare(plan), step.buffers(cache, plan, 0, 1)
    with Operators() as operators:
        step.run(hidden, inputs, buffers, plan.first_slot, 0, ())
    return operators.names


def operators_of_a_norm(weight):
    """One fused operator on an accelerator, several on a processor: which ones depends on the version of torch."""
    states = torch.ones(1, 4)
    with Operators() as operators:
        torch.nn.functional.rms_norm(states, (4,), weight, 1e-6)
    return operators.names


def without_norms(names):
    norms = [operators_of_a_norm(weight) for weight in (torch.ones(4), None)]
    found, rest = [], names
    while rest:
        norm = next((norm for norm in norms if rest[: len(norm)] == norm), None)
        found.append(rest[0] if norm is None else "norm")
        rest = rest[len(norm or rest[:1]) :]
    return found


ATTEND = "_scaled_dot_product_flash_attention_for_cpu"
ROTATE, WRITE = ["cat", "mul", "addcmul"], ["index_put_", "index_put_"]
MLP = ["mm", "silu", "mul_", "mm"]


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_plain_layer_is_sixteen_operators(family):
    expected = ["norm", "mm", *ROTATE, *WRITE, ATTEND, "mm", "add", "norm", *MLP, "add"]
    assert without_norms(operators_of_a_layer(family, [0, 1], 1)) == expected
    assert len(expected) == 16


def test_norms_of_heads_and_of_results():
    qwen3 = without_norms(operators_of_a_layer("qwen3", [0, 1], 1))
    assert qwen3 == ["norm", "mm", "norm", "mul_", *ROTATE, *WRITE, ATTEND, "mm", "add", "norm", *MLP, "add"]
    olmo2 = without_norms(operators_of_a_layer("olmo2", [0, 1], 1))
    assert olmo2 == ["mm", "norm", "norm", "cat", *ROTATE, *WRITE, ATTEND, "mm", "norm", "add", *MLP, "norm", "add"]


def test_what_costs_copies():
    plain = len(operators_of_a_layer("llama", [0, 1], 1))
    assert len(operators_of_a_layer("llama", [0, 1], 3)) == plain + 2  # heads in order, and back
    assert len(operators_of_a_layer("llama", [2, 0], 1)) == plain + 2  # keys and values are gathered
    assert len(operators_of_a_layer("llama", [0, 1], 3, num_key_value_heads=4)) == plain


def test_wide_passes_call_attention_for_each_member_of_a_group():
    assert is_folded(FOLDED_WIDTH)
    assert not is_folded(FOLDED_WIDTH + 1)
    assert operators_of_a_layer("llama", [0], FOLDED_WIDTH).count(ATTEND) == 1
    assert operators_of_a_layer("llama", [0], FOLDED_WIDTH + 1).count(ATTEND) == 2


def test_neighbours_in_memory_are_joined_in_place():
    seen = []

    def maker(weight, bias):
        seen.append((weight, bias))
        return plain_linear(weight, bias)

    whole = torch.arange(30.0).view(10, 3)
    states = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    joined = joined_linear([Matrix(whole[:4], None), Matrix(whole[4:7], None), Matrix(whole[7:], None)], maker)
    assert torch.equal(joined(states), states @ whole.t())
    assert seen[0][0].data_ptr() == whole.data_ptr()


def test_strangers_are_copied():
    whole, bias = torch.arange(30.0).view(10, 3), torch.arange(10.0)
    states = torch.ones(1, 3)
    for order in [(slice(0, 4), slice(5, 10)), (slice(4, 10), slice(0, 4))]:  # a gap; the wrong way round
        matrices = [Matrix(whole[part], bias[part]) for part in order]
        expected = torch.cat([whole[part].sum(1) + bias[part] for part in order])
        assert torch.equal(joined_linear(matrices, plain_linear)(states)[0], expected)


def test_half_a_bias_is_our_own_bug():
    with pytest.raises(AssertionError, match="a bias each"):
        joined_linear([Matrix(torch.ones(2, 2), None), Matrix(torch.ones(2, 2), torch.ones(2))], plain_linear)
