"""What a FusedDecoder keeps beside the arithmetic of its step: books, taps, ranges of layers.

What it says is compared with transformers in tests/exactness/test_decoder_families.py.
"""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import CapacityError, ConfigError, UnsupportedModelError
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import read_family
from evodraft.runtime.fused import FusedDecoder
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model

STEPS = {"eager": EagerStep, "native": lambda weights: NativeStep(weights, load_library())}
VOCAB, NUM_LAYERS = 64, 4


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", VOCAB, num_hidden_layers=NUM_LAYERS)


@pytest.fixture(params=STEPS)
def decoder(request, model):
    return decoder_of(model, request.param)


def decoder_of(model, name, **options):
    facts = ModelFacts.of(model)
    return FusedDecoder(STEPS[name](read_family(model, facts)), facts, num_slots=3, max_length=16, **options)


def ids(*shape, seed=0):
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def test_what_it_says_of_itself(decoder):
    assert (decoder.num_slots, decoder.max_length, decoder.num_layers) == (3, 16, NUM_LAYERS)
    assert decoder.vocab_size == VOCAB
    assert decoder.supports_layers


def test_lengths_follow_the_passes(decoder):
    decoder.forward(ids(2, 4), [4, 2], [2, 0])
    assert [decoder.length(slot) for slot in range(3)] == [2, 0, 4]
    decoder.crop(2, 3)
    decoder.forward(ids(1, 1), [1], [2])
    assert decoder.length(2) == 4
    decoder.release(2)
    assert decoder.length(2) == 0
    assert decoder.cache_bytes > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", STEPS)
def test_taps_are_those_of_the_reference(name, dtype):
    model = tiny_model("llama", VOCAB, num_hidden_layers=NUM_LAYERS).to(dtype)
    fused, reference = decoder_of(model, name), HfDecoder(model, num_slots=3, max_length=16)
    taps = tuple(range(NUM_LAYERS + 1))
    found, expected = (each.forward(ids(1, 5), [5], [1], taps=taps).taps for each in (fused, reference))
    assert set(found) == set(expected) == set(taps)
    for tap in taps:
        assert found[tap].dtype == expected[tap].dtype == dtype
        tolerance = 1e-4 if dtype == torch.float32 else 0.15
        torch.testing.assert_close(found[tap], expected[tap], atol=tolerance, rtol=tolerance)


def test_logits_only_where_they_are_wanted(decoder):
    output = decoder.forward(ids(1, 3), [3], [0], want_logits=False)
    assert output.logits is None
    assert not output.taps
    output = decoder.forward(ids(1, 3), [3], [0], want_logits=False, taps=[NUM_LAYERS])
    assert output.logits is None
    assert set(output.taps) == {NUM_LAYERS}


@pytest.mark.parametrize("tap", [-1, NUM_LAYERS + 1])
def test_taps_of_no_layer(decoder, tap):
    with pytest.raises(UnsupportedModelError, match=f"tap {tap} is outside 0..{NUM_LAYERS}"):
        decoder.forward(ids(1, 3), [3], [0], taps=[tap])
    assert decoder.length(0) == 0


def test_a_pass_that_does_not_fit_changes_nothing(decoder):
    decoder.forward(ids(1, 3), [3], [0])
    with pytest.raises(CapacityError, match="would hold 17 tokens"):
        decoder.forward(ids(2, 14, seed=1), [3, 14], [1, 0])
    with pytest.raises(CapacityError, match="slot 3 does not exist"):
        decoder.forward(ids(1, 1), [1], [3])
    with pytest.raises(ConfigError):
        decoder.forward(ids(1, 2), [2], [1], parents=[[0, 1]])
    assert [decoder.length(slot) for slot in range(3)] == [3, 0, 0]


def test_a_pass_that_fails_leaves_all_lengths(model, monkeypatch):
    """And the next one says what it would have said."""
    decoder, untroubled = decoder_of(model, "eager"), decoder_of(model, "eager")
    for each in (decoder, untroubled):
        each.forward(ids(1, 3), [3], [0])

    def exhausted(*arguments):
        raise torch.OutOfMemoryError("no")

    with monkeypatch.context() as patched:
        patched.setattr(decoder.step, "layers", exhausted)
        with pytest.raises(CapacityError):
            decoder.forward(ids(1, 2), [2], [0])
    assert decoder.length(0) == 3
    found, expected = (each.forward(ids(1, 2), [2], [0]).logits for each in (decoder, untroubled))
    assert torch.equal(found, expected)


def test_a_draft_may_stop_early_and_the_rest_be_computed_later(decoder, model):
    """Two tokens one by one through the first layers, both at once through the others: as one pass through all."""
    name, token_ids = decoder.step.name, ids(1, 2, seed=3)
    whole = decoder_of(model, name)
    for each in (decoder, whole):
        each.forward(ids(1, 4), [4], [1])
    early = []
    for at in range(2):
        hidden = decoder.embed(token_ids[:, at : at + 1])
        early.append(decoder.layers(hidden, [1], [1], range(2)))
        assert decoder.head(early[-1]).shape == (1, 1, VOCAB)
    assert decoder.length(1) == 4, "the shortest layer counts"
    hidden = decoder.layers(torch.cat(early, dim=1), [2], [1], range(2, NUM_LAYERS))
    assert decoder.length(1) == 6
    expected = whole.forward(token_ids, [2], [1]).logits
    torch.testing.assert_close(decoder.head(hidden), expected, atol=1e-4, rtol=1e-4)
    if name == "native":
        assert torch.equal(decoder.head(hidden), expected)


def test_layers_do_not_write_into_what_they_are_given(decoder):
    hidden = decoder.embed(ids(1, 3))
    kept = hidden.clone()
    decoder.layers(hidden, [3], [0], range(2))
    assert torch.equal(hidden, kept)


def test_nothing_remembers_gradients(decoder):
    output = decoder.forward(ids(1, 3), [3], [0], taps=[0, 2, NUM_LAYERS])
    assert not any(tensor.requires_grad for tensor in (output.logits, *output.taps.values()))


def test_memory_ahead_of_need_is_bounded(model):
    bounded, free = decoder_of(model, "native", cache_tokens=4), decoder_of(model, "native")
    for each in (bounded, free):
        each.forward(ids(1, 1), [1], [0])
    assert bounded.cache_bytes <= free.cache_bytes
    bounded.forward(ids(3, 15), [15] * 3, [0, 1, 2])
    assert bounded.length(1) == 15, "what is needed is never refused"
