"""What happens to a model after its weights were read is taken over or named, never missed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.changes import Changes, Standing
from evodraft.runtime.choose import RUNTIMES, TRANSFORMERS, RuntimeOptions, choose_runtime
from evodraft.testing.tiny import tiny_model

IDS = torch.tensor([[3, 9, 4, 17]])
FUSED = [name for name in RUNTIMES if name != TRANSFORMERS]


def logits_of(decoder) -> torch.Tensor:
    decoder.release(0)
    return decoder.forward(IDS, [4], [0]).logits


@pytest.fixture
def model():
    return tiny_model("qwen3", vocab_size=32, seed=1)


@pytest.fixture(params=FUSED)
def decoder(request, model):
    return choose_runtime(model, RuntimeOptions(request.param)).decoder(num_slots=1, max_length=8)


def written_matrices(model) -> None:
    model.load_state_dict(tiny_model("qwen3", vocab_size=32, seed=2).state_dict())


def written_norms(model) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(1.5)


@pytest.mark.parametrize("write", [written_matrices, written_norms])
def test_weights_written_in_place_are_taken_over(decoder, model, write: Callable[..., None]) -> None:
    before = logits_of(decoder)
    write(model)
    after = logits_of(decoder)
    assert not torch.allclose(after, before, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(after, model(IDS).logits, atol=1e-4, rtol=0.0)


def hooked(model) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def given_another_forward(model) -> None:
    model.lm_head.forward = lambda states: states


def given_another_parameter(model) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)


def moved(model) -> None:
    model.to("meta")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hooked, "hooks or another forward"),
        (given_another_forward, "hooks or another forward"),
        (given_another_parameter, "moved or replaced"),
        (moved, "moved or replaced"),
    ],
)
def test_what_cannot_be_taken_over_is_named(decoder, model, change: Callable[..., None], words: str) -> None:
    logits_of(decoder)
    change(model)
    with pytest.raises(UnsupportedModelError, match=f"{words}.*runtime='transformers'"):
        logits_of(decoder)
    assert decoder.length(0) == 0


def test_transformers_own_taps_are_no_hooks(decoder, model) -> None:
    before = logits_of(decoder)
    model(IDS, output_hidden_states=True)
    assert torch.equal(logits_of(decoder), before)


def test_autocast_of_the_caller_changes_nothing(decoder) -> None:
    before = logits_of(decoder)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits_of(decoder), before)


def test_a_sequence_that_has_begun_is_not_asked_again() -> None:
    layer = torch.nn.Linear(2, 2)
    standing = Standing(layer)
    layer.weight.data.add_(1.0)  # the same memory
    standing.check()


def test_tensors_of_inference_mode_are_left_alone() -> None:
    with torch.inference_mode():
        frozen = torch.zeros(2)
    assert not Changes([frozen]).found()


def test_a_step_keeps_no_buffer_of_its_caches_alive(model) -> None:
    import gc
    import weakref

    decoder = choose_runtime(model, RuntimeOptions("native")).decoder(num_slots=1, max_length=250)
    logits_of(decoder)
    buffer = weakref.ref(decoder._cache._buffers[0].keys)
    decoder.forward(torch.ones(1, 200, dtype=torch.long), [200], [0])  # grows
    gc.collect()
    assert buffer() is None
