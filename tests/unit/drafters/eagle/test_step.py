"""A head's arithmetic: which code runs it, that all say the same, and that native bits are the same anywhere."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters.eagle import step as step_module
from evodraft.drafters.eagle.step import choose_step, weights_of
from evodraft.errors import CapacityError, UnsupportedModelError
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.choose import RuntimeOptions
from evodraft.runtime.native.chain import ChainStart, ChainWeights, draft_chains
from evodraft.testing.heads import tiny_head
from evodraft.testing.naive_head import naive_features
from evodraft.testing.tiny import tiny_model

VOCAB, HIDDEN = 24, 32
SHAPES = {
    "plain": {},
    "normed residual": {"norm_before_residual": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "a head of twenty": {"head_dim": 20, "num_attention_heads": 8},
    "groups of four": {"num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 7},
}


def head_of(dtype=torch.float32, hidden=HIDDEN, **changes):
    model = tiny_model("llama", VOCAB, hidden_size=hidden, num_attention_heads=1, num_key_value_heads=1).to(dtype)
    return tiny_head(model, taps=(0, 1, 2), **changes)


def inputs(num_tokens, dtype=torch.float32, hidden=HIDDEN, seed=0):
    generator = torch.Generator().manual_seed(seed)
    taps = torch.randn(num_tokens, 3 * hidden, generator=generator).to(dtype)
    return taps, torch.randn(num_tokens, hidden, generator=generator).to(dtype)


def run(step, cache, slots, widths, embedded, features, parents=None):
    """Rows of a padded pass, without their padding."""
    plan = cache.plan(slots, widths, embedded.shape[1], parents=parents)
    cache.begin(plan)
    output = step.layer(embedded, features, cache, plan)
    cache.commit(plan)
    return [row[:width] for row, width in zip(output, widths, strict=True)]


@pytest.mark.parametrize(
    ("runtime", "dtype", "name"),
    [
        ("auto", torch.float32, "native"),
        ("auto", torch.bfloat16, "native"),
        ("native", torch.float64, "eager"),
        ("packed", torch.bfloat16, "packed"),
        ("eager", torch.bfloat16, "eager"),
        ("transformers", torch.float32, "eager"),
    ],
)
def test_the_first_that_can_is_chosen(runtime, dtype, name):
    step = choose_step(head_of(dtype), RuntimeOptions(runtime))
    assert (step.name, step.dtype) == (name, dtype)


def test_without_a_compiler_weights_are_packed(monkeypatch):
    problems = {**step_module._PROBLEMS, "native": lambda _: "no compiler"}
    monkeypatch.setattr(step_module, "_PROBLEMS", problems)
    assert choose_step(head_of(), RuntimeOptions()).name == "packed"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("runtime", ["native", "packed", "eager"])
def test_all_say_what_the_modules_say(runtime, shape):
    head = head_of(**SHAPES[shape])
    step, (taps, embedding) = choose_step(head, RuntimeOptions(runtime)), inputs(24)
    features, token_ids = step.fuse(taps), list(range(24))
    cache = SlotCache(1, num_slots=2, max_length=64)
    embedded = embedding[1:]  # the embedding of token i is row i
    pieces = [run(step, cache, [1], [b - a], embedded[None, a:b], features[None, a:b])[0] for a, b in ((0, 1), (1, 23))]
    found = torch.cat(pieces)
    for end in (2, 9, 24):
        expected = naive_features(head, embedding, taps[: end - 1], token_ids[:end])
        torch.testing.assert_close(found[end - 2], expected, atol=1e-4, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(step.norm(found)[end - 2], head.norm(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [HIDDEN, 40])
def test_native_bits_depend_on_the_path_alone(dtype, shape, hidden):
    """Not on the width of a pass, its other rows, or where a token stands in a tree."""
    head = head_of(dtype, hidden, **SHAPES[shape])
    step, (taps, embedded) = choose_step(head, RuntimeOptions("native")), inputs(12, dtype, hidden)
    features = step.fuse(taps)
    assert torch.equal(torch.cat([step.fuse(row[None]) for row in taps]), features)
    alone = SlotCache(1, num_slots=1, max_length=64)
    expected = torch.cat(
        [run(step, alone, [0], [1], embedded[None, i : i + 1], features[None, i : i + 1])[0] for i in range(12)]
    )
    cache = SlotCache(1, num_slots=4, max_length=64)
    others, more = inputs(9, dtype, hidden, seed=1), inputs(9, dtype, hidden, seed=2)
    noise = torch.stack([others[1], more[1]])
    beside = torch.stack([noise[0], embedded[:9], noise[1]])
    states = torch.stack([noise[1].float(), features[:9], noise[0].float()])
    found = run(step, cache, [0, 3, 1], [9, 9, 4], beside, states)[1]
    assert torch.equal(found, expected[:9])
    tree = torch.tensor([9, 0, 10, 1, 11])  # the line 9, 10, 11 among nodes that are not on it
    parents = [(-1, -1, 0, 1, 2)]
    found = run(step, cache, [3], [5], embedded[None, tree], features[None, tree], parents)[0]
    assert torch.equal(found[[0, 2, 4]], expected[9:])
    cache.crop(3, 9)
    cache.crop(0, 4)
    plan = cache.plan([0, 3], [1, 5], 5, parents=[(-1,), parents[0]])
    cache.begin(plan)
    both = [torch.stack([part[tree], part[tree]]) for part in (embedded, features)]
    both[1][1, :3] = torch.nan  # what is known is not asked for
    again = step.layer(*both, cache, plan, [0, 3])[1]
    assert torch.equal(again[3:], found[3:])


def test_features_are_wider_than_weights():
    for dtype, wanted in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ):
        step, (taps, embedded) = choose_step(head_of(dtype), RuntimeOptions("eager")), inputs(3, dtype)
        features = step.fuse(taps)
        output = run(step, SlotCache(1, 1, 8), [0], [3], embedded[None], features[None])[0]
        assert (features.dtype, output.dtype, step.norm(output).dtype) == (wanted, wanted, dtype)


@pytest.mark.parametrize("runtime", ["native", "packed", "eager"])
def test_weights_written_in_place_are_taken_over(runtime):
    head, (taps, embedded) = head_of(), inputs(4)
    step = choose_step(head, RuntimeOptions(runtime))
    assert not step.refresh()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.25)
    assert step.refresh()
    assert not step.refresh()
    fresh = choose_step(head, RuntimeOptions(runtime))
    outputs = [
        one.norm(run(one, SlotCache(1, 1, 8), [0], [4], embedded[None], one.fuse(taps)[None])[0])
        for one in (step, fresh)
    ]
    assert torch.equal(*outputs)


def test_casting_a_head_does_not_round_its_positions():
    """In bfloat16 the frequencies are off by up to 0.4 %: a full turn after some hundred positions."""
    head = head_of()
    exact = weights_of(head).rotary.tables(500).cos
    assert torch.equal(weights_of(head.to(torch.bfloat16)).rotary.tables(500).cos, exact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "activation is 'gelu' and only 'silu' is computed; use another head"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope type 'dynamic'"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message):
    with pytest.raises(UnsupportedModelError, match=message):
        choose_step(head_of(**changes), RuntimeOptions())


def test_exhausted_memory_has_a_name():
    class Short:
        def __getattr__(self, name):
            return lambda *_: False

    step = choose_step(head_of(), RuntimeOptions("native"))
    step.inner.library = Short()
    cache = SlotCache(1, 1, 8)
    plan = cache.plan([0], [3], 3)
    cache.begin(plan)
    weights = ChainWeights(torch.ones(HIDDEN, 96), torch.ones(VOCAB, HIDDEN), None, torch.ones(VOCAB, HIDDEN))
    with pytest.raises(CapacityError, match="no memory left for a pass over 2 tokens; lower prefill_budget"):
        draft_chains(
            step.inner, weights, ChainStart(torch.ones(2, 96), None, [1, 2], [2]), cache, plan, 2, want_signals=False
        )
