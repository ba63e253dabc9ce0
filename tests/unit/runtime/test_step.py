"""Every Step says what HfDecoder says: all families, ragged passes, crops, chunks, trees, layer ranges, taps.

A new step is one line in STEPS. The texts are longer than the windows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch

from evodraft.runtime.cache import SlotCache
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import FamilyWeights, read_family
from evodraft.runtime.graphs import GraphedStep, Recording, Work
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.packing import packed_linear, packing_problem
from evodraft.runtime.step import Step
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import SLIDING_WINDOW, tiny_model

VOCAB = 96
NUM_LAYERS = 4
SLOTS = (3, 0, 2)  # no range: rows are gathered


def packed_step(weights: FamilyWeights) -> Step:
    if (problem := packing_problem(weights.embedding)) is not None:
        pytest.skip(problem)
    return EagerStep(weights, packed_linear, name="packed")


def recomputed(work: Work) -> Recording:
    """Replays by doing the work again, into the same output."""
    output = work()

    def replay() -> None:
        again = work()
        output.hidden.copy_(again.hidden)
        for layer, states in output.taps.items():
            states.copy_(again.taps[layer])

    return Recording(output, replay)


def native_step(weights: FamilyWeights) -> Step:
    if (problem := native_problem(weights.embedding)) is not None:
        pytest.skip(problem)
    return NativeStep(weights, load_library())


STEPS: dict[str, Callable[[FamilyWeights], Step]] = {  # a maker skips the test where its step cannot work
    "eager": EagerStep,
    "packed": packed_step,
    "graphs": lambda weights: GraphedStep(EagerStep(weights), recomputed),
    "native": native_step,
}

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS = {
    "llama": ("llama", {}),
    "llama with as many key heads": ("llama", {"num_key_value_heads": 4}),
    "llama with one key head": ("llama", {"num_key_value_heads": 1}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with wide heads": ("llama", {"head_dim": 16}),
    "llama with a tied head": ("llama", {"tie_word_embeddings": True}),
    "llama 3": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 100.0, "original_max_position_embeddings": 64}},
    ),
    "llama with linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama with yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("mistral", {}),
    "mistral without window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 with two windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": SLIDING_WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "phi3 that turns half": ("phi3", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
}


class Passes:
    """The smallest decoder around a step."""

    def __init__(self, step: Step, num_layers: int = NUM_LAYERS) -> None:
        self.step = step
        self.cache = SlotCache(num_layers, num_slots=4, max_length=80)

    def hidden(self, token_ids, widths, slots, *, parents=None, taps=(), cuts=()):
        """The last hidden state and the taps; `cuts` divide the layers into ranges that run one after the other."""
        plan = self.cache.plan(slots, widths, token_ids.shape[1], parents=parents)
        self.cache.begin(plan)
        hidden, found = self.step.embed(token_ids), {}
        bounds = (0, *cuts, self.cache.num_layers)
        for first, last in pairwise(bounds):
            output = self.step.layers(hidden, self.cache, plan, first, last, taps)
            hidden = output.hidden
            found |= output.taps
        self.cache.commit(plan)
        return hidden, found

    def logits(self, token_ids, widths, slots, **options):
        hidden, _ = self.hidden(token_ids, widths, slots, **options)
        return self.step.head(self.step.norm(hidden))


def rough_model(family: str, changes, dtype=torch.float32):
    """Norms and biases too have values of their own, so that leaving one out shows."""
    model = tiny_model(family, VOCAB, seed=5, num_hidden_layers=NUM_LAYERS, **changes)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.3, generator=generator))
    return model.to(dtype)


def step_for(name: str, model) -> Step:
    return STEPS[name](read_family(model, ModelFacts.of(model)))


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    family, changes = MODELS[request.param]
    return rough_model(family, changes)


@pytest.fixture(params=STEPS)
def passes(request, model):
    return Passes(step_for(request.param, model))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def random_ids(generator, *shape):
    return torch.randint(2, VOCAB, shape, generator=generator)


def assert_rows_close(actual, expected, widths: Sequence[int], tolerance=1e-4):
    for row, width in enumerate(widths):
        torch.testing.assert_close(actual[row, :width], expected[row, :width], atol=tolerance, rtol=tolerance)


def test_ragged_chunks_and_crops(model, passes, generator):
    reference = HfDecoder(model, num_slots=4, max_length=80)
    for widths, slots, crops in [
        ([20, 3, 11], SLOTS, {3: 17}),  # wide: heads are not folded
        ([2, 5, 1], SLOTS, {0: 4, 2: 9}),
        ([4, 4, 4], (0, 1, 2), {}),  # a range
        ([1], (3,), {}),
        ([17, 9], (1, 3), {1: 2}),
        ([3, 1, 2, 2], (2, 1, 0, 3), {}),
    ]:
        token_ids = random_ids(generator, len(slots), max(widths))
        expected = reference.forward(token_ids, widths, slots).logits
        assert_rows_close(passes.logits(token_ids, widths, slots), expected, widths)
        for slot, length in crops.items():
            reference.crop(slot, length)
            passes.cache.crop(slot, length)


def test_trees(model, passes, generator):
    reference = HfDecoder(model, num_slots=4, max_length=80)
    prompt, tree = random_ids(generator, 2, 12), random_ids(generator, 2, 6)
    parents = [[-1, -1, 0, 0, 1, 2], [-1, 0, 1, 1]]
    for run in (reference.forward, passes.logits):
        run(prompt, [12, 9], [1, 3])
    expected = reference.forward(tree, [6, 4], [1, 3], parents=parents).logits
    assert_rows_close(passes.logits(tree, [6, 4], [1, 3], parents=parents), expected, [6, 4])


def test_a_step_knows_its_name(passes, request):
    assert passes.step.name == request.node.callspec.params["passes"]


def test_taps_are_hidden_states(model, passes, generator):
    reference = HfDecoder(model, num_slots=4, max_length=80)
    token_ids, inner = random_ids(generator, 1, 9), (1, 2, 3)
    expected = reference.forward(token_ids, [9], [0], taps=(*inner, NUM_LAYERS)).taps
    hidden, taps = passes.hidden(token_ids, [9], [0], taps=(*inner, NUM_LAYERS))
    assert set(taps) == {*inner, NUM_LAYERS}
    for layer in inner:
        torch.testing.assert_close(taps[layer], expected[layer], atol=1e-4, rtol=1e-4)
    assert torch.equal(taps[NUM_LAYERS], hidden)
    torch.testing.assert_close(passes.step.norm(hidden), expected[NUM_LAYERS], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cuts", [(1,), (2, 3)])
def test_ranges_of_layers_are_the_whole(model, passes, generator, cuts):
    whole = Passes(passes.step)
    for width in (7, 2):
        token_ids = random_ids(generator, 2, width)
        expected, taps = whole.hidden(token_ids, [width, 1], [2, 0], taps=(2,))
        found, found_taps = passes.hidden(token_ids, [width, 1], [2, 0], taps=(2,), cuts=cuts)
        assert_rows_close(found, expected, [width, 1], tolerance=0.0)
        assert_rows_close(found_taps[2], taps[2], [width, 1], tolerance=0.0)


def test_a_pass_leaves_earlier_results_alone(passes, generator):
    hidden, taps = passes.hidden(random_ids(generator, 1, 4), [4], [0], taps=(2,))
    kept = hidden.clone(), taps[2].clone()
    passes.hidden(random_ids(generator, 1, 4), [4], [0], taps=(2,))
    assert torch.equal(hidden, kept[0])
    assert torch.equal(taps[2], kept[1])
    assert not hidden.requires_grad


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("family", ["llama", "olmo2", "phi3", "qwen3"])
def test_bfloat16_deviates_no_more_than_the_model_does(name, family, generator):
    exact = rough_model(family, {})
    rounded = rough_model(family, {}, torch.bfloat16)
    exact.model.rotary_emb = rounded.model.rotary_emb  # its frequencies were rounded with the model
    token_ids = random_ids(generator, 4, 24)
    arguments = token_ids, [24] * 4, [0, 1, 2, 3]
    passes = Passes(step_for(name, rounded))
    expected = HfDecoder(exact, num_slots=4, max_length=80).forward(*arguments).logits
    theirs = HfDecoder(rounded, num_slots=4, max_length=80).forward(*arguments).logits
    ours = torch.cat([passes.logits(part, [part.shape[1]] * 4, arguments[2]) for part in token_ids.split(5, 1)], 1)
    deviation, limit = ((logits.float() - expected).square().mean().sqrt() for logits in (ours, theirs))
    assert deviation < 1.25 * limit


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float16, 3e-2)])
def test_the_eager_step_takes_any_floating_type(model, generator, dtype, tolerance):
    model = copy.deepcopy(model).to(dtype)
    passes, reference = Passes(step_for("eager", model)), HfDecoder(model, num_slots=4, max_length=80)
    for width in (20, 3, 1):
        token_ids, widths = random_ids(generator, 2, width), [width, 1]
        expected = reference.forward(token_ids, widths, [2, 0]).logits
        logits = passes.logits(token_ids, widths, [2, 0])
        assert logits.dtype == dtype
        assert_rows_close(logits, expected, widths, tolerance)
