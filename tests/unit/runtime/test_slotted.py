"""The books that all decoders share, without a model."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import ConfigError, UnsupportedModelError
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.slotted import SlottedDecoder, check_taps
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def facts():
    return ModelFacts.of(tiny_model("llama"))


@pytest.fixture
def cache(facts):
    return SlotCache(facts.num_layers, num_slots=2, max_length=8)


@pytest.fixture
def decoder(facts, cache):
    return SlottedDecoder(facts, cache)


def write(cache, widths, slots, value=1.0):
    plan = cache.plan(slots, widths, max(widths))
    cache.begin(plan)
    states = torch.full((len(slots), 1, max(widths), 4), value)
    for layer in range(cache.num_layers):
        cache.write(layer, plan, states, states)
    cache.commit(plan)


def test_what_it_says_of_itself(decoder, facts, cache):
    assert (decoder.vocab_size, decoder.num_layers) == (facts.vocab_size, facts.num_layers)
    assert (decoder.num_slots, decoder.max_length) == (2, 8)
    assert decoder.bytes_per_token == facts.bytes_per_token
    assert decoder.cache_bytes == 0
    write(cache, [3], [0])
    assert decoder.cache_bytes == cache.allocated_bytes > 0


def test_lengths(decoder, cache):
    write(cache, [5, 2], [0, 1])
    decoder.crop(0, 4)
    decoder.crop(1, 1, range(1))
    assert (decoder.length(0), decoder.length(1)) == (4, 1)
    decoder.select(0, 1, [0, 2])
    assert decoder.length(0) == 3
    with pytest.raises(ConfigError):
        decoder.select(0, 1, [1, 0])
    decoder.release(0)
    assert decoder.length(0) == 0


def test_a_scrubbed_slot_holds_nothing_beyond_its_length(decoder, cache):
    write(cache, [5], [1], torch.nan)
    decoder.crop(1, 0)
    decoder.scrub(1)
    write(cache, [1], [1])
    plan = cache.plan([1], [1], 1)
    states = torch.ones(1, 1, 1, 4)
    cache.begin(plan)
    assert cache.write(0, plan, states, states).keys.isfinite().all()


@pytest.mark.parametrize("taps", [(), (0,), (0, 1, 2)])
def test_taps_of_layers_that_there_are(facts, taps):
    check_taps(taps, facts)


@pytest.mark.parametrize("tap", [-1, 3])
def test_taps_of_layers_that_there_are_not(facts, tap):
    with pytest.raises(UnsupportedModelError, match=f"tap {tap} is outside 0..2 of model type 'llama'"):
        check_taps((0, tap), facts)
