"""Everything that changes a model without changing its architecture is noticed."""

from __future__ import annotations

import copy
import functools
import types

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.nn.modules import module as torch_module
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from evodraft.runtime.unmodified import problem_of
from evodraft.testing.tiny import tiny_model


class HalvingLinear(nn.Linear):
    """As quantisers do it: a subclass with a forward of its own."""

    def forward(self, states):
        return super().forward(states) / 2


class QuantisedTensor(torch.Tensor):
    """As torchao does it: the module stays, its weight intercepts operators."""

    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    @classmethod
    def __torch_dispatch__(cls, function, types_, arguments=(), options=None):
        assert function is torch.ops.aten.detach.default
        return cls(arguments[0])


class CalledOtherwise(nn.Linear):
    """Not a word about it in forward."""

    def __call__(self, states):
        return super().__call__(states) / 2


def halved_attention(module, query, key, value, mask, **options):
    output, weights = sdpa_attention_forward(module, query, key, value, mask, **options)
    return output / 2, weights


def attention(model):
    return model.model.layers[1].self_attn


def nothing(model):
    pass


def tapped(model):
    model(torch.tensor([[1, 2]]), output_hidden_states=True)


def frozen_and_training(model):
    model.requires_grad_(False).train()


def cast(model):
    model.to(torch.bfloat16)


def replaced_linear(model):
    attention(model).q_proj = HalvingLinear(32, 32, bias=False)


def replaced_activation(model):
    model.model.layers[0].mlp.act_fn = nn.GELU()


def replaced_norm(model):
    model.model.norm = nn.LayerNorm(32)


def lora(model):
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), model)


def accelerated(model):
    add_hook_to_module(attention(model).o_proj, AlignDevicesHook(io_same_device=True))


def patched_instance(model):
    model.model.layers[0].forward = types.MethodType(lambda self, states, **_: states, model.model.layers[0])


def parametrised(model):
    nn.utils.parametrize.register_parametrization(attention(model).k_proj, "weight", nn.Identity())


def quantised_tensor(model):
    weight = attention(model).v_proj.weight.detach()
    attention(model).v_proj.weight = nn.Parameter(QuantisedTensor(weight), requires_grad=False)


def sparse(model):
    attention(model).v_proj.weight = nn.Parameter(attention(model).v_proj.weight.detach().to_sparse())


def transposed(model):
    attention(model).q_proj.weight = nn.Parameter(torch.zeros(32, 32).t())


def two_types(model):
    model.model.norm.to(torch.float64)


def eight_bits(model):
    model.to(torch.float8_e4m3fn)


def on_meta(model):
    model.to("meta")


def scattered(model):
    model.lm_head.to("meta")


def compiled_in_place(model):
    model.model.layers[0].compile(backend="eager")


def pre_hook(model):
    attention(model).register_forward_pre_hook(lambda *_: None)


def called_otherwise(model):
    attention(model).q_proj = CalledOtherwise(32, 32, bias=False)


def renormalised(model):
    model.model.embed_tokens.max_norm = 1.0


@pytest.mark.parametrize("change", [nothing, tapped, frozen_and_training, cast])
@pytest.mark.parametrize("family", ["llama", "phi3", "olmo2"])
def test_a_plain_model_has_no_problem(change, family):
    model = tiny_model(family)
    change(model)
    assert problem_of(model, family) is None
    assert problem_of(copy.deepcopy(model), family) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (replaced_linear, "model.layers.1.self_attn.q_proj runs "),
        (replaced_activation, "model.layers.0.mlp.act_fn runs torch.nn.modules.activation.GELU.forward"),
        (replaced_norm, "model.norm runs torch.nn.modules.normalization.LayerNorm.forward"),
        (lora, "model.layers.0.self_attn.q_proj runs peft."),
        (accelerated, "the forward of model.layers.1.self_attn.o_proj was replaced"),
        (patched_instance, "the forward of model.layers.0 was replaced"),
        (parametrised, "model.layers.1.self_attn.k_proj.parametrizations.weight runs torch.nn.utils."),
        (quantised_tensor, "model.layers.1.self_attn.v_proj.weight is not a plain tensor"),
        (sparse, "model.layers.1.self_attn.v_proj.weight is not a plain tensor"),
        (transposed, "model.layers.1.self_attn.q_proj.weight does not lie in memory row by row"),
        (two_types, "its parameters are of type float32, float64; supported is one of bfloat16, float16"),
        (eight_bits, "its parameters are of type float8_e4m3fn; supported is one of"),
        (on_meta, "its parameters are on meta; supported is one device"),
        (scattered, "its parameters are on cpu, meta; supported is one device"),
        (compiled_in_place, "it was compiled in place"),
        (pre_hook, "a hook on model.layers.1.self_attn may change what it returns"),
        (called_otherwise, "model.layers.1.self_attn.q_proj is called through tests"),
        (renormalised, "its embeddings are renormalised (max_norm)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_change_is_named(change, problem):
    model = tiny_model("llama")
    change(model)
    assert (found := problem_of(model, "llama")) is not None
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "register", [torch_module.register_module_forward_hook, torch_module.register_module_forward_pre_hook]
)
def test_a_hook_on_all_modules(register):
    model = tiny_model("llama")
    handle = register(lambda *_: None)
    try:
        assert problem_of(model, "llama").startswith("a hook on all modules")
    finally:
        handle.remove()
    assert problem_of(model, "llama") is None


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("function", [halved_attention, functools.partial(halved_attention)])
def test_an_attention_of_somebody_else(name, function, monkeypatch):
    model = tiny_model("llama", attn_implementation=name)
    assert problem_of(model, "llama") is None
    monkeypatch.setitem(AttentionInterface._global_mapping, name, function)
    assert problem_of(model, "llama").startswith(f"attention {name!r} was registered as a function of ")


def test_another_architecture_under_a_known_type():
    assert problem_of(tiny_model("gemma"), "llama").startswith("the model runs transformers.models.gemma.")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
def test_a_wrapper_of_peft():
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    assert problem_of(model, "llama").startswith("the model runs peft.")
