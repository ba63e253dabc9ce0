"""The native step says what the model says, is at least as exact as its modules, and gives the same bits at any width.

Families, trees and crops are compared with transformers in tests/exactness/test_decoder_families.py; here are the sizes
that no real model has, and what may go wrong with memory.
"""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from evodraft.errors import CapacityError
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import FamilyWeights, LayerWeights, Matrix, read_family
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import SLIDING_WINDOW, tiny_model

VOCAB = 97
NUM_LAYERS = 3
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = {  # sizes that fill no vector and no tile
    "a head of two": {"head_dim": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 33},
    "a head of six": {"head_dim": 6, "num_attention_heads": 10, "num_key_value_heads": 2, "hidden_size": 50},
    "a head of twenty": {"head_dim": 20, "num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 35},
    "a head of eighty": {"head_dim": 80, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 99},
    "a head of 96": {"head_dim": 96, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 18},
    "a head of 128": {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 1},
    "groups of five": {"num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 25, "intermediate_size": 1},
    "groups of eight": {"num_attention_heads": 8, "num_key_value_heads": 1, "intermediate_size": 63},
    "small": {"hidden_size": 4, "intermediate_size": 2, "head_dim": 4},
}
FAMILIES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")
MODELS = {
    **{name: ("llama", {**shape, "attention_bias": True, "mlp_bias": True}) for name, shape in SHAPES.items()},
    **{family: (family, {}) for family in FAMILIES},
    "qwen3 in a group of eight": ("qwen3", {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 12}),
    "phi3 that turns half": ("phi3", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
}


@pytest.fixture(scope="module")
def library():
    return load_library()


def built(name, dtype=torch.float32):
    """Norms and biases too have values of their own."""
    family, changes = MODELS[name]
    model = tiny_model(family, VOCAB, seed=5, num_hidden_layers=NUM_LAYERS, **changes)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.3, generator=generator))
    return model.to(dtype)


def weights_of(model):
    return read_family(model, ModelFacts.of(model))


class Passes:
    """The smallest decoder around a step: what it says of the tokens that are not padding, [tokens, hidden + vocab]."""

    def __init__(self, step, num_slots=4):
        self.step = step
        self.cache = SlotCache(NUM_LAYERS, num_slots, max_length=300)

    def __call__(self, token_ids, widths, slots, parents=None, taps=()):
        plan = self.cache.plan(slots, widths, token_ids.shape[1], parents=parents)
        self.cache.begin(plan)
        output = self.step.layers(self.step.embed(token_ids), self.cache, plan, 0, NUM_LAYERS, taps)
        logits = self.step.head(self.step.norm(output.hidden))
        self.cache.commit(plan)
        both = torch.cat([output.hidden, *(output.taps[tap] for tap in taps), logits], dim=-1)
        return [both[row, :width] for row, width in enumerate(widths)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def random_ids(generator, *shape):
    return torch.randint(2, VOCAB, shape, generator=generator)


def in_float64(part):
    """The same weights in float64, through nested dataclasses and tuples."""
    if isinstance(part, torch.Tensor):
        return part.double()
    if isinstance(part, tuple):
        return tuple(map(in_float64, part))
    if is_dataclass(part) and isinstance(part, FamilyWeights | LayerWeights | Matrix):
        return replace(part, **{entry.name: in_float64(getattr(part, entry.name)) for entry in fields(part)})
    return part


def some_passes(generator):
    """Ragged passes, wide and narrow, one of them over trees; slots in any order."""
    yield random_ids(generator, 3, 20), [20, 3, 11], (3, 0, 2), None
    yield random_ids(generator, 4, 5), [2, 5, 1, 4], (2, 1, 0, 3), None
    yield random_ids(generator, 1, 40), [37], (1,), None
    yield random_ids(generator, 2, 6), [6, 4], (1, 3), [(-1, -1, 0, 0, 1, 2), (-1, 0, 1, 1)]


# ---- against others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_float32_is_right(name, library, generator):
    weights = weights_of(built(name))
    passes, exact = Passes(NativeStep(weights, library)), Passes(EagerStep(in_float64(weights)))
    eager = Passes(EagerStep(weights))
    for arguments in some_passes(generator):
        for found, expected, theirs in zip(passes(*arguments), exact(*arguments), eager(*arguments), strict=True):
            torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)
            deviation, limit = ((other.double() - expected).abs().max() for other in (found, theirs))
            assert deviation < 4 * limit + 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_deviates_no_more_than_the_model_does(name, library, generator):
    exact, rounded = built(name), built(name, torch.bfloat16)
    exact.load_state_dict(rounded.state_dict())
    exact.model.rotary_emb = rounded.model.rotary_emb  # its frequencies were rounded with the model
    token_ids = random_ids(generator, 4, 40)
    arguments = token_ids, [40] * 4, [0, 1, 2, 3]
    expected = HfDecoder(exact, num_slots=4, max_length=80).forward(*arguments).logits
    theirs = HfDecoder(rounded, num_slots=4, max_length=80).forward(*arguments).logits
    passes = Passes(NativeStep(weights_of(rounded), library))
    ours = torch.cat(
        [torch.stack(passes(part, [part.shape[1]] * 4, arguments[2])) for part in token_ids.split(5, 1)], 1
    )
    deviation, limit = ((x.float() - expected).square().mean().sqrt() for x in (ours[..., -VOCAB:], theirs))
    assert deviation <= limit


# ---- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_widths_and_neighbours_change_no_bit(name, dtype, library, generator):
    step, text = NativeStep(weights_of(built(name, dtype)), library), random_ids(generator, 40)
    alone = Passes(step)
    expected = torch.cat([alone(text[None, at : at + 1], [1], [0], taps=(1, 3))[0] for at in range(40)])
    for widths in ([40], [1, 2, 3, 4, 5, 6, 7, 12], [16, 17, 7]):
        passes, found = Passes(step), []
        passes(random_ids(generator, 2, 9), [9, 4], [3, 1])
        for part in text.split(widths):
            beside = random_ids(generator, 3, 19)
            beside[1, : len(part)] = part[:19]
            if len(part) <= 19:
                found.append(passes(beside, [19, len(part), 2], [1, 2, 3], taps=(1, 3))[1])
            else:
                found.append(passes(part[None], [len(part)], [2], taps=(1, 3))[0])
        assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["a head of six", "olmo2", "mistral"])
def test_threads_change_no_bit(name, dtype, library):
    before, outputs = torch.get_num_threads(), []
    step = NativeStep(weights_of(built(name, dtype)), library)
    try:
        for num_threads in (1, 2, 3, 7):
            torch.set_num_threads(num_threads)
            passes = Passes(step)
            runs = [passes(*arguments) for arguments in some_passes(torch.Generator().manual_seed(1))]
            outputs.append(torch.cat([row for rows in runs for row in rows]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(dtype, poison, library, generator):
    """A slot full of NaN beside another; and a branch of a tree that its siblings do not see."""
    model = built("llama", dtype)
    bad = 5
    token_ids = random_ids(generator, 2, 9).clamp(min=bad + 1)
    clean, tainted = (Passes(NativeStep(weights_of(model), library)) for _ in range(2))
    expected = clean(token_ids, [9, 9], [0, 1])[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = poison
    token_ids[1, 2:] = bad
    first, second = tainted(token_ids, [9, 9], [0, 1])
    assert torch.equal(first, expected)
    assert not second[2:].isfinite().all(dim=-1).any(), "it was poison"
    assert second[:2].isfinite().all(), "what comes before is not reached"
    tree, parents = random_ids(generator, 1, 4).clamp(min=bad + 1), [(-1, -1, 0, 1)]
    expected = clean(tree, [4], [0], parents)[0]
    tree[0, 1] = bad
    found = tainted(tree, [4], [0], parents)[0]
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert not found[[1, 3]].isfinite().all(dim=-1).any()


# ---- memory ------------------------------------------------------------------------------------------------------


def test_a_matrix_changed_in_place_is_obeyed_and_a_norm_is_taken_over_by_refresh(library, generator):
    model = built("llama")
    step, token_ids = NativeStep(weights_of(model), library), random_ids(generator, 1, 4)
    before = Passes(step)(token_ids, [4], [0])[0]
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(2.0)
    changed = Passes(step)(token_ids, [4], [0])[0]
    assert not torch.allclose(changed, before)
    assert torch.equal(changed, Passes(NativeStep(weights_of(model), library))(token_ids, [4], [0])[0])
    with torch.no_grad():
        model.model.norm.weight.mul_(2.0)
    assert torch.equal(Passes(step)(token_ids, [4], [0])[0], changed)
    assert step.refresh()
    assert not torch.allclose(Passes(step)(token_ids, [4], [0])[0], changed)
    assert not step.refresh()


def test_weights_outlive_a_model_that_is_cast(library, generator):
    """The parameters get other memory; what the step reads stays."""
    model = built("llama")
    step, token_ids = NativeStep(weights_of(model), library), random_ids(generator, 1, 4)
    before = Passes(step)(token_ids, [4], [0])[0]
    model.to(torch.bfloat16)
    assert torch.equal(Passes(step)(token_ids, [4], [0])[0], before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_need_no_alignment(dtype, library, generator):
    """The same numbers one element further on in memory."""
    model, expected_of = built("qwen2", dtype), built("qwen2", dtype)
    for parameter in model.parameters():
        memory = torch.empty(parameter.numel() + 1, dtype=dtype)
        memory[1:] = parameter.detach().flatten()
        parameter.data = memory[1:].view(parameter.shape)
    token_ids = random_ids(generator, 2, 7)
    found, expected = (
        Passes(NativeStep(weights_of(each), library))(token_ids, [7, 3], [1, 0]) for each in (model, expected_of)
    )
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_callers_hidden_states_stay_and_may_have_any_layout_and_type(library, generator):
    """Read as float32 numbers in a row, other tensors would be other numbers."""
    step = NativeStep(weights_of(built("llama")), library)
    hidden = torch.randn(2, 5, 32, generator=generator).bfloat16().float()

    def run(states):
        cache = SlotCache(NUM_LAYERS, num_slots=2, max_length=16)
        plan = cache.plan([0, 1], [5, 5], 5)
        cache.begin(plan)
        return step.layers(states, cache, plan, 0, NUM_LAYERS, ()).hidden

    kept = hidden.clone()
    expected = run(hidden)
    assert torch.equal(hidden, kept)
    turned = hidden.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for states in (hidden.bfloat16(), turned, hidden.double(), torch.cat([hidden, hidden], dim=-1)[..., :32]):
        assert torch.equal(run(states), expected)


def test_long_passes_and_growing_buffers(library, generator):
    """Positions beyond the first tables of angles and beyond the first buffers, against the windows too."""
    assert SLIDING_WINDOW < 100
    for name in ("llama", "mistral"):
        step, text = NativeStep(weights_of(built(name)), library), random_ids(generator, 290)
        whole, pieces = Passes(step), Passes(step)
        expected = whole(text[None], [290], [0])[0]
        found = [pieces(part[None], [len(part)], [2])[0] for part in text.split([3, 200, 60, 27])]
        assert torch.equal(torch.cat(found), expected)


def test_exhausted_memory_has_a_name(library, generator):
    class Short:
        norm = library.norm

        def layers(self, *places):
            return False

    passes = Passes(NativeStep(weights_of(built("llama")), library))
    passes.step = copy.copy(passes.step)
    passes.step.library = Short()
    with pytest.raises(CapacityError, match="no memory left for a pass over 6 tokens; lower prefill_budget"):
        passes(random_ids(generator, 2, 4), [4, 2], [0, 1])
    assert passes.cache.length(0) == 0
