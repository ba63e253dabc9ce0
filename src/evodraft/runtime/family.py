"""The weights of a Llama-like transformers model, laid out as plain tensors under names that do not depend on it.

What is read are views of the model's own memory: nothing is copied and nothing is written. A model whose modules do
anything else than what the weights say is refused, because arithmetic of our own would silently say something else.

This module does not compute: it knows no passes, caches or devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

import torch

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.rotary import Rotary
from evodraft.runtime.support import ModelFacts, innermost
from evodraft.runtime.unmodified import problem_of

_FIXED_ROPE: Final = ("default", "linear", "llama3", "yarn", "proportional")
"""Frequencies that do not depend on how long the text is. dynamic and longrope depend on it."""


Number = TypeVar("Number", int, float)
MATRIX_NAMES: Final = ("query", "key", "value", "output", "gate", "up", "down")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer."""

    weight: torch.Tensor  # [rows, columns], contiguous
    bias: torch.Tensor | None  # [rows]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. A norm that is None is not applied."""

    query: Matrix  # [heads * head_dim, hidden]
    key: Matrix  # [kv_heads * head_dim, hidden]
    value: Matrix  # [kv_heads * head_dim, hidden]
    output: Matrix  # [hidden, heads * head_dim]
    gate: Matrix  # [intermediate, hidden]
    up: Matrix  # [intermediate, hidden]
    down: Matrix  # [hidden, intermediate]
    attention_norm: torch.Tensor | None = None  # [hidden], before attention
    mlp_norm: torch.Tensor | None = None  # [hidden], before the MLP
    attention_out_norm: torch.Tensor | None = None  # [hidden], on what attention returns, before the residual
    mlp_out_norm: torch.Tensor | None = None  # [hidden], on what the MLP returns, before the residual
    query_norm: torch.Tensor | None = None  # [head_dim]: each head by itself; [heads * head_dim]: all as one
    key_norm: torch.Tensor | None = None  # [head_dim] or [kv_heads * head_dim]
    beside_norm: torch.Tensor | None = None  # [hidden], on a second input that attention reads before the first
    is_residual_normed: bool = False  # what attention is added to went through `attention_norm` too
    window: int | None = None  # position p sees p - window + 1 .. p


@dataclass(frozen=True, slots=True)
class FamilyWeights:
    """A whole model. Valid as long as the model's parameters stay where they are."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    scaling: float  # of the attention scores
    embedding: torch.Tensor  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor  # [hidden]
    head: Matrix  # [vocab, hidden]
    rotary: Rotary

    @property
    def rotary_dim(self) -> int:
        """Numbers of a head that rotate; less than head_dim if the rotation is partial."""
        return self.rotary.rotary_dim

    @property
    def hidden_size(self) -> int:
        return self.embedding.shape[1]

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self.head.weight.shape[0]

    @property
    def matrix_bytes(self) -> int:
        """Bytes of all matrices, the head included: what a copy of them takes."""
        return self.head.weight.nbytes + self._bytes_of(MATRIX_NAMES)

    @property
    def joinable_bytes(self) -> int:
        """Bytes of the matrices that share their input: what joining them copies at most."""
        return self._bytes_of(("query", "key", "value", "gate", "up"))

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that was read: views of the model's parameters."""
        return _tensors(self)

    def _bytes_of(self, names: Sequence[str]) -> int:
        return sum(int(getattr(layer, name).weight.nbytes) for layer in self.layers for name in names)


def read_family(model: torch.nn.Module, facts: ModelFacts) -> FamilyWeights:
    """The weights of `model`. Raises UnsupportedModelError, with the reason, if they do not tell all of what it does.

    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("phi3")
    >>> weights = read_family(model, ModelFacts.of(model))
    >>> tuple(weights.layers[0].query.weight.shape), weights.layers[0].window
    ((32, 32), 7)
    >>> read_family(tiny_model("gemma"), ModelFacts.of(tiny_model("gemma")))
    Traceback (most recent call last):
    evodraft.errors.UnsupportedModelError: model type 'gemma' is none of llama, mistral, olmo2, phi3, qwen2, qwen3...
    """
    reader = _READERS.get(facts.model_type)
    if reader is None:
        raise _refused(f"model type {facts.model_type!r} is none of {', '.join(sorted(_READERS))}")
    if innermost(model) is not model:
        raise _refused("the model is wrapped, and the wrapper may add to what its layers compute")
    if (problem := problem_of(model, facts.model_type)) is not None:
        raise _refused(problem)
    try:
        weights = _read(model, facts, reader)
    except AttributeError as error:
        raise _refused(f"the modules are not laid out as model type {facts.model_type!r} has them ({error})") from error
    _refuse_strange(weights)
    _refuse_unread(model, weights)
    return weights


# ---- one reader per layout -----------------------------------------------------------------------------------


def llama_layer(layer: Any) -> LayerWeights:
    """Weights of a module that is laid out as a Llama layer."""
    return replace(
        _separate(layer),
        attention_norm=layer.input_layernorm.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
    )


def _qwen3(layer: Any) -> LayerWeights:
    query_norm, key_norm = _head_norms(layer.self_attn)
    return replace(llama_layer(layer), query_norm=query_norm, key_norm=key_norm)


def _olmo2(layer: Any) -> LayerWeights:
    query_norm, key_norm = _head_norms(layer.self_attn)
    return replace(
        _separate(layer),
        attention_out_norm=layer.post_attention_layernorm.weight.detach(),
        mlp_out_norm=layer.post_feedforward_layernorm.weight.detach(),
        query_norm=query_norm,
        key_norm=key_norm,
    )


def _separate(layer: Any) -> LayerWeights:
    """Seven matrices by themselves, without norms."""
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        query=_matrix(attention.q_proj),
        key=_matrix(attention.k_proj),
        value=_matrix(attention.v_proj),
        output=_matrix(attention.o_proj),
        gate=_matrix(mlp.gate_proj),
        up=_matrix(mlp.up_proj),
        down=_matrix(mlp.down_proj),
    )


def _phi3(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    fused, columns = _matrix(attention.qkv_proj), attention.o_proj.in_features
    query, rest = _cut(fused, columns)
    key, value = _cut(rest, rest.weight.shape[0] // 2)
    gate, up = _cut(_matrix(mlp.gate_up_proj), mlp.down_proj.in_features)
    return LayerWeights(
        query=query,
        key=key,
        value=value,
        output=_matrix(attention.o_proj),
        gate=gate,
        up=up,
        down=_matrix(mlp.down_proj),
        attention_norm=layer.input_layernorm.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
    )


_READERS: Final[Mapping[str, Callable[[Any], LayerWeights]]] = {
    "llama": llama_layer,
    "mistral": llama_layer,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "qwen2": llama_layer,
    "qwen3": _qwen3,
}
"""Model type -> what its layers look like."""


# ---- what they share -----------------------------------------------------------------------------------------


def _read(model: Any, facts: ModelFacts, reader: Callable[[Any], LayerWeights]) -> FamilyWeights:
    inner, config = model.model, model.config
    layers = inner.layers[: facts.num_layers]
    if len(layers) != facts.num_layers:
        raise _refused(f"it has {len(layers)} layers and its config says {facts.num_layers}")
    windows = _windows(config, facts)
    return FamilyWeights(
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=_only("sizes of heads", {int(layer.self_attn.head_dim) for layer in layers}),
        norm_eps=_only("epsilons of norms", _epsilons(model)),
        scaling=_only("scalings of attention", {float(layer.self_attn.scaling) for layer in layers}),
        embedding=inner.embed_tokens.weight.detach(),
        layers=tuple(replace(reader(layer), window=window) for layer, window in zip(layers, windows, strict=True)),
        final_norm=inner.norm.weight.detach(),
        head=_matrix(model.lm_head),
        rotary=read_rotary(inner.rotary_emb),
    )


def _matrix(linear: Any) -> Matrix:
    bias = linear.bias
    return Matrix(linear.weight.detach(), None if bias is None else bias.detach())


def _cut(matrix: Matrix, rows: int) -> tuple[Matrix, Matrix]:
    """The first `rows` rows and the others, as views."""
    biases = (None, None) if matrix.bias is None else (matrix.bias[:rows], matrix.bias[rows:])
    return Matrix(matrix.weight[:rows], biases[0]), Matrix(matrix.weight[rows:], biases[1])


def _head_norms(attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return attention.q_norm.weight.detach(), attention.k_norm.weight.detach()


def _epsilons(model: Any) -> set[float]:
    return {float(module.variance_epsilon) for module in model.modules() if hasattr(module, "variance_epsilon")}


def _only(what: str, found: set[Number]) -> Number:
    if len(found) != 1:
        raise _refused(f"it has {len(found)} different {what} ({sorted(found)}) and only one is supported")
    return found.pop()


def read_rotary(module: Any) -> Rotary:
    """Tables for a rotary module. Raises UnsupportedModelError if its frequencies change with the text's length."""
    if module.rope_type not in _FIXED_ROPE:
        raise _refused(
            f"rope type {module.rope_type!r} may change its frequencies with the length of the text; "
            f"supported are {', '.join(_FIXED_ROPE)}"
        )
    return Rotary(module.inv_freq, float(module.attention_scaling))


def _windows(config: Any, facts: ModelFacts) -> list[int | None]:
    """One per layer. The facts decide, not the config: a window that a model ignores was dropped from them."""
    if any(kind.chunk is not None for kind in facts.kinds):
        raise _refused("it attends in chunks")
    windows = {kind.name: kind.window for kind in facts.kinds}
    if len(windows) == 1:
        return [*windows.values()] * facts.num_layers
    return [windows[name] for name in config.layer_types[: facts.num_layers]]


def _refuse_strange(weights: FamilyWeights) -> None:
    """Parameters were looked at, but a buffer may stand where one belongs."""
    for tensor in _tensors(weights):
        kind = (tensor.dtype, tensor.device)
        if kind != (weights.dtype, weights.device):
            raise _refused(f"a weight is {kind[0]} on {kind[1]}, its embeddings {weights.dtype} on {weights.device}")
        if not tensor.is_contiguous():
            raise _refused(f"a weight of shape {tuple(tensor.shape)} does not lie in memory row by row")


def _refuse_unread(model: Any, weights: FamilyWeights) -> None:
    """A parameter that nobody read changes what the model says in a way that nobody here knows."""
    read = {tensor.data_ptr() for tensor in _tensors(weights)}
    unread = [name for name, parameter in model.named_parameters() if parameter.data_ptr() not in read]
    if unread:
        raise _refused(f"its parameter {unread[0]} has no place in model type {model.config.model_type!r}")


def _tensors(part: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dataclasses and tuples."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _tensors(item)
    elif isinstance(part, Matrix | LayerWeights | FamilyWeights):
        for entry in fields(part):
            yield from _tensors(getattr(part, entry.name))


def _refused(reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{reason}; decode it with HfDecoder, which calls the model's own modules")
