"""Is a transformers model what its architecture says, or did somebody build something into it?

Quantisers replace linear layers, accelerate moves weights from a module's `forward`, adapters and hooks add to what
layers return, kernels are swapped in by the class. All of it works because the module is called. Whoever computes
with the weights alone asks here first.

This module does not know what the layers of an architecture are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_COMMON_CODE: Final = tuple(
    part.forward for part in (nn.Linear, nn.Embedding, nn.SiLU, SiLUActivation, nn.Dropout, nn.ModuleList)
)
# The second one recomputes what the first returns, while training; newer releases of transformers do without.
_CALLING_CODE: Final = (nn.Module.__module__, "transformers.modeling_layers")
_OWN_HOOKS: Final = "transformers.utils.output_capturing"  # they copy hidden states on request and change nothing


def problem_of(model: nn.Module, model_type: str) -> str | None:
    """Why the weights alone do not tell what the model computes; None if they do.

    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("llama")
    >>> problem_of(model, "llama") is None
    True
    >>> handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    >>> problem_of(model, "llama")
    'a hook on model.layers.1.mlp may change what it returns'
    """
    return next((problem for check in _CHECKS for problem in check(model, model_type)), None)


def is_intercepted(module: nn.Module) -> bool:
    """Whether hooks or a forward of its own may change what a module returns."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return "forward" in vars(module) or any(getattr(hook, "__module__", None) != _OWN_HOOKS for hook in hooks)


def _foreign_code(model: nn.Module, model_type: str) -> Iterator[str]:
    home = f"transformers.models.{model_type}."
    for name, module in model.named_modules():
        if "forward" in vars(module):
            yield f"the forward of {name or 'the model'} was replaced on the instance (accelerate and kernels do that)"
        # Where the code lives, not what its class is called: a replaced class may have any name.
        code = type(module).forward
        if code not in _COMMON_CODE and not code.__module__.startswith(home):
            yield f"{name or 'the model'} runs {code.__module__}.{code.__qualname__}, which is not known here"
        call = type(module).__call__
        if call.__module__ not in _CALLING_CODE:
            yield f"{name or 'the model'} is called through {call.__module__}.{call.__qualname__}, not torch's own code"


def _foreign_attention(model: Any, model_type: str) -> Iterator[str]:
    """Functions are registered under a name, also in the place of those that transformers brings."""
    name = model.config._attn_implementation
    function = ALL_ATTENTION_FUNCTIONS.get(name)  # None: the eager one, which stands in the model's own module
    code = getattr(function, "__module__", None) or ""
    if function is not None and not code.startswith("transformers."):
        yield f"attention {name!r} was registered as a function of {code or 'unknown code'}, which is not known here"


def _hooks(model: nn.Module, model_type: str) -> Iterator[str]:
    if torch_module._global_forward_pre_hooks or torch_module._global_forward_hooks:
        yield "a hook on all modules (register_module_forward_hook) may change what they return; remove it"
    for name, module in model.named_modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if any(getattr(hook, "__module__", None) != _OWN_HOOKS for hook in hooks):
            yield f"a hook on {name or 'the model'} may change what it returns"


def _compiled(model: nn.Module, model_type: str) -> Iterator[str]:
    if any(module._compiled_call_impl is not None for module in model.modules()):
        yield "it was compiled in place, and whoever did that wants the compiled code to run"


def _strange_parameters(model: nn.Module, model_type: str) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        intercepts = type(parameter).__torch_dispatch__ != torch.Tensor.__torch_dispatch__
        if intercepts or parameter.layout is not torch.strided:
            yield f"{name} is not a plain tensor (quantised, sparse or distributed)"
        elif not parameter.is_contiguous():
            yield f"{name} does not lie in memory row by row"


def _placement(model: nn.Module, model_type: str) -> Iterator[str]:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1 or not dtypes <= set(_DTYPES):
        yield f"its parameters are of type {_listed(dtypes)}; supported is one of {_listed(_DTYPES)} for all"
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1 or any(device.type == "meta" for device in devices):
        yield f"its parameters are on {_listed(devices)}; supported is one device that holds all"


def _renormalised(model: Any, model_type: str) -> Iterator[str]:
    if model.get_input_embeddings().max_norm is not None:
        yield "its embeddings are renormalised (max_norm)"


def _listed(things: Any) -> str:
    return ", ".join(sorted(str(thing).removeprefix("torch.") for thing in things))


_CHECKS: Final[tuple[Callable[[Any, str], Iterator[str]], ...]] = (
    _foreign_code,
    _foreign_attention,
    _hooks,
    _compiled,
    _placement,
    _strange_parameters,
    _renormalised,
)
