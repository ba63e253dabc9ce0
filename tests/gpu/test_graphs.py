"""Recorded passes on an accelerator: the tokens of passes that run as they are, through everything a cache does."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import read_family
from evodraft.runtime.fused import FusedDecoder
from evodraft.runtime.graphs import GraphedStep, cuda_recorder
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model

pytestmark = pytest.mark.gpu

FAMILIES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")


class CountingRecorder:
    def __init__(self, device: torch.device) -> None:
        self._record = cuda_recorder(device)
        self.num_recorded = 0

    def __call__(self, work):
        self.num_recorded += 1
        return self._record(work)


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param, vocab_size=64, max_position_embeddings=512).cuda()


def graphed(model, max_length=300):
    facts = ModelFacts.of(model)
    record = CountingRecorder(facts.device)
    step = GraphedStep(EagerStep(read_family(model, facts)), record)
    return FusedDecoder(step, facts, num_slots=4, max_length=max_length), record


def assert_close(actual, expected, widths):
    for row, width in enumerate(widths):
        torch.testing.assert_close(actual[row, :width], expected[row, :width], atol=1e-3, rtol=1e-3)


def test_recorded_passes_say_what_the_model_says(model):
    """Ragged, gathered and growing passes, crops, trees, taps: each shape often enough to be recorded and replayed."""
    decoder, record = graphed(model)
    reference = HfDecoder(model, num_slots=4, max_length=300)
    generator = torch.Generator().manual_seed(0)
    tree = [[-1, -1, 0, 1], [-1, 0, 0]]
    for turn in range(30):  # past 64 columns: the buffers grow, and recordings are made again
        for widths, slots, options in [
            ([1], [0], {}),
            ([3, 2], [1, 2], {}),
            ([2, 4], [3, 0], {}),
            ([4, 3], [0, 1], {"parents": tree}),
            ([1, 1, 1, 1], [0, 1, 2, 3], {"taps": (1, 2)}),
        ]:
            token_ids = torch.randint(0, 64, (len(slots), max(widths)), generator=generator)
            ours, theirs = (runner.forward(token_ids, widths, slots, **options) for runner in (decoder, reference))
            assert_close(ours.logits, theirs.logits, widths)
            for layer in ours.taps:
                assert_close(ours.taps[layer], theirs.taps[layer], widths)
            for runner in (decoder, reference):
                if "parents" in options:
                    runner.select(0, runner.length(0) - 4, [0, 2])
                    runner.select(1, runner.length(1) - 3, [0, 2])
                elif turn % 3 == 0:
                    runner.crop(slots[0], runner.length(slots[0]) - 1)
    assert record.num_recorded >= 10


def test_results_survive_the_next_replay(model):
    decoder, record = graphed(model)
    token_ids = torch.ones(1, 1, dtype=torch.long)
    outputs = [decoder.forward(token_ids, [1], [0], taps=(1,)) for _ in range(5)]
    kept = [output.taps[1].clone() for output in outputs]
    decoder.forward(token_ids, [1], [0], taps=(1,))
    assert record.num_recorded == 1
    assert all(torch.equal(output.taps[1], tap) for output, tap in zip(outputs, kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = tiny_model("llama", vocab_size=64).cuda().to(dtype)
    decoder, record = graphed(model)
    plain = FusedDecoder(EagerStep(read_family(model, ModelFacts.of(model))), ModelFacts.of(model), 4, 300)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        token_ids = torch.randint(0, 64, (2, 3), generator=generator)
        ours, theirs = (runner.forward(token_ids, [3, 2], [0, 1]).logits.float() for runner in (decoder, plain))
        deviation = (ours - theirs)[0].square().mean().sqrt()
        assert deviation < 0.02 * theirs[0].std()
    assert record.num_recorded >= 1


def test_running_waits_for_nothing():
    model = tiny_model("llama", vocab_size=64).cuda()
    facts = ModelFacts.of(model)
    decoder = FusedDecoder(EagerStep(read_family(model, facts)), facts, num_slots=2, max_length=300)
    decoder.forward(torch.ones(2, 3, dtype=torch.long), [3, 2], [0, 1])
    step, cache = decoder.step, decoder._cache
    plan = cache.plan([0, 1], [3, 2], 3)
    cache.begin(plan)
    inputs, buffers = step.prepare(plan), step.buffers(cache, plan, 0, 2)
    hidden = step.embed(torch.ones(2, 3, dtype=torch.long))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run(hidden, inputs, buffers, plan.first_slot, 0, ())
    finally:
        torch.cuda.set_sync_debug_mode("default")
