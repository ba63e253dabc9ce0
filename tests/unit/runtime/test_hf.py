"""HfDecoder as its callers see it, and as the owner of the model sees it."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from peft import LoraConfig, get_peft_model

from evodraft.errors import CapacityError, ConfigError, UnsupportedModelError
from evodraft.runtime.hf import HfDecoder
from evodraft.testing import check_decoder
from evodraft.testing.tiny import TINY_FAMILIES, tiny_model

IDS = torch.arange(3, 15).reshape(1, 12)


def plain(model, token_ids):
    with torch.no_grad():
        return model(token_ids, use_cache=False).logits


def in_pieces(decoder, token_ids, slot=1):
    """Logits of one sequence, appended in three pieces."""
    return torch.cat(
        [decoder.forward(piece, [piece.shape[1]], [slot]).logits for piece in token_ids.split(5, dim=1)], 1
    )


def test_it_says_what_it_is():
    decoder = HfDecoder(tiny_model("llama", vocab_size=48), num_slots=3)
    assert (decoder.vocab_size, decoder.num_layers, decoder.num_slots, decoder.max_length) == (48, 2, 3, 256)
    assert decoder.bytes_per_token == 256
    assert decoder.cache_bytes == 0
    decoder.forward(IDS, [12], [2], want_logits=False)
    assert decoder.cache_bytes == 3 * 65 * 256
    assert [decoder.length(slot) for slot in range(3)] == [0, 0, 12]
    decoder.crop(2, 5)
    assert decoder.length(2) == 5
    decoder.crop(2, 4, layers=range(1, 2))
    assert decoder.length(2) == 4
    decoder.release(2)
    assert decoder.length(2) == 0


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_it_keeps_the_protocol(family):
    model = tiny_model(family, vocab_size=32)
    check_decoder(lambda num_slots, max_length: HfDecoder(model, num_slots, max_length))


def test_the_cache_follows_need_within_its_budget():
    decoder = HfDecoder(tiny_model("llama", vocab_size=48), num_slots=3, max_length=128, cache_tokens=2 * 80)
    decoder.forward(IDS, [12], [0], want_logits=False)
    assert decoder.cache_bytes == 1 * 65 * 256
    for _ in range(5):
        decoder.forward(IDS.expand(2, 12), [12, 12], [0, 1], want_logits=False)
    assert decoder.cache_bytes == 2 * 81 * 256, "128 columns for two rows would exceed the budget"
    decoder.release(1)
    decoder.forward(IDS, [12], [0], want_logits=False)
    assert decoder.cache_bytes == 1 * 129 * 256


def test_a_failed_pass_over_a_tree_leaves_the_lengths():
    decoder = HfDecoder(tiny_model("llama"), num_slots=2)
    decoder.forward(IDS, [12], [1])
    with pytest.raises(ConfigError, match="node 1 of a tree names parent 2"):
        decoder.forward(IDS[:, :3], [3], [1], parents=[[-1, 2, 0]])
    assert decoder.length(1) == 12
    decoder.forward(IDS[:, :3], [3], [1], parents=[[-1, 0, 0]])
    with pytest.raises(ConfigError, match=r"nodes \[3\] are no path"):
        decoder.select(1, 12, [3])
    decoder.select(1, 12, [0, 2])
    assert decoder.length(1) == 14


def test_the_budget_decides_the_length():
    model = tiny_model("llama")
    assert HfDecoder(model, num_slots=2, kv_cache_bytes=2 * 256 * 40).max_length == 40
    assert HfDecoder(model, num_slots=2, kv_cache_bytes=2 * 256 * 40, self_check=False).max_length == 40
    with pytest.raises(CapacityError, match="max_length=41 exceeds 40, what kv_cache_bytes=20480"):
        HfDecoder(model, num_slots=2, max_length=41, kv_cache_bytes=2 * 256 * 40)


def test_a_full_slot_refuses_more_and_stays_usable():
    model = tiny_model("llama")
    decoder = HfDecoder(model, num_slots=2, max_length=12)
    logits = in_pieces(decoder, IDS[:, :11])
    with pytest.raises(CapacityError, match="slot 1 would hold 13 tokens"):
        decoder.forward(IDS[:, :2].expand(2, 2), [1, 2], [0, 1])
    assert (decoder.length(0), decoder.length(1)) == (0, 11)
    last = decoder.forward(IDS[:, 11:], [1], [1]).logits
    torch.testing.assert_close(torch.cat([logits, last], 1), plain(model, IDS))


def test_the_self_check_can_be_turned_off():
    model = tiny_model("gemma3", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModelError):
        HfDecoder(model)
    assert HfDecoder(model, self_check=False).num_layers == 2


def fingerprint(model):
    """Everything about a model that its owner could notice a change of."""
    weights = hashlib.sha256()
    for name, tensor in [*model.state_dict().items(), *model.named_buffers()]:
        weights.update(name.encode())
        weights.update(tensor.detach().contiguous().numpy().tobytes())
    return {
        "weights": weights.hexdigest(),
        "config": copy.deepcopy(model.config.to_dict()),
        "generation_config": copy.deepcopy(model.generation_config.to_dict()),
        "attention": model.config._attn_implementation,
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [
            len(hooks) for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


class UnpluggedError(RuntimeError):
    """What a test throws into a forward."""


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_model_is_left_as_it_was_even_after_an_exception(family, training):
    model = tiny_model(family).train(training)
    before = fingerprint(model)
    decoder = HfDecoder(model, num_slots=2)
    in_pieces(decoder, IDS)
    assert fingerprint(model) == before

    def unplug(*_):
        raise UnpluggedError

    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    handle = layers[1].register_forward_pre_hook(unplug)
    with pytest.raises(UnpluggedError):
        decoder.forward(IDS[:, :3].expand(2, 3), [3, 2], [0, 1])
    handle.remove()
    assert fingerprint(model) == before
    assert (decoder.length(0), decoder.length(1)) == (0, 12)
    again = decoder.forward(IDS[:, :1], [1], [1]).logits  # what the failed pass overwrote is not seen
    torch.testing.assert_close(
        again[0, 0], plain(model.eval(), torch.cat([IDS, IDS[:, :1]], 1))[0, -1], atol=1e-5, rtol=1e-5
    )


def test_taps_change_nothing_that_is_stored_or_configured():
    model = tiny_model("llama")
    before = fingerprint(model)
    HfDecoder(model, num_slots=1).forward(IDS, [12], [0], taps=(0, 1, 2))
    after = fingerprint(model)  # transformers installs its own recording hooks on first use; nothing else may differ
    for name in ("weights", "config", "generation_config", "attention", "training", "requires_grad"):
        assert after[name] == before[name]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
def test_a_lora_model_is_decoded_with_its_adapter():
    model = get_peft_model(
        tiny_model("llama"), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    ).eval()
    bare = plain(model, IDS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    decoder = HfDecoder(model, num_slots=2)
    adapted = in_pieces(decoder, IDS)
    torch.testing.assert_close(adapted, plain(model, IDS), atol=1e-5, rtol=1e-5)
    assert (adapted - bare).abs().max() > 0.1
    with model.disable_adapter():
        decoder.release(1)
        torch.testing.assert_close(in_pieces(decoder, IDS), bare, atol=1e-5, rtol=1e-5)


class Int8Linear(torch.nn.Module):
    """A stand-in for a quantiser: weights in int8, activations rounded to 8 bits for the whole batch at once."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, states):
        scale = states.abs().amax() / 127
        return (states / scale).round() * scale @ (self.weight.float() * self.scale).T


def test_a_quantised_model_passes_through():
    model = tiny_model("llama")
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, Int8Linear(getattr(layer.mlp, name)))
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, Int8Linear(getattr(layer.self_attn, name)))
    decoder = HfDecoder(model, num_slots=2)
    deviation = (in_pieces(decoder, IDS) - plain(model, IDS)).square().mean().sqrt()
    assert deviation < 0.1  # the rounding depends on who shares the pass
    assert model.model.layers[0].mlp.up_proj.weight.dtype is torch.int8


def test_an_offloaded_model_passes_through():
    """accelerate's hooks bring the weights in for each module; between passes they are on the meta device."""
    accelerate = pytest.importorskip("accelerate")
    expected = plain(tiny_model("gemma3"), IDS)
    model = accelerate.cpu_offload(tiny_model("gemma3"), execution_device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.is_meta
    torch.testing.assert_close(in_pieces(HfDecoder(model, num_slots=2), IDS), expected, atol=1e-5, rtol=1e-5)


def test_hooks_fire_once_a_pass():
    model = tiny_model("llama")
    decoder = HfDecoder(model, num_slots=2)
    fired = []
    for name in ("model", "model.layers.1", "model.layers.1.self_attn", "lm_head"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: fired.append(name))
    decoder.forward(IDS, [12], [0])
    assert sorted(fired) == ["lm_head", "model", "model.layers.1", "model.layers.1.self_attn"]
