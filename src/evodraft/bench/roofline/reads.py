"""What a model reads from memory for one token. Does not know how fast, or by which code.

Decoding one token multiplies every weight matrix with one vector: each matrix is read whole, of the input embedding
one row only. With tied embeddings the table is read whole after all: as the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evodraft.bench.roofline.record import ReadBytes
from evodraft.errors import BenchError
from evodraft.runtime.support import ModelFacts, innermost

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Reads:
    """Tensors that a token reads whole, in the order in which it reads them; no copies."""

    matrices: tuple[torch.Tensor, ...]  # of the decoder layers, each [rows, columns]
    head: torch.Tensor  # [vocab, hidden]
    vectors: tuple[torch.Tensor, ...]  # norms and biases

    def in_order(self) -> list[torch.Tensor]:
        """The matrices, the head last."""
        return [*self.matrices, self.head]

    def count(self, cache_bytes: int = 0) -> ReadBytes:
        """Bytes, with `cache_bytes` of keys and values."""
        return ReadBytes(_nbytes(self.matrices), self.head.nbytes, _nbytes(self.vectors), cache_bytes)


def read_weights(model: torch.nn.Module) -> Reads:
    """What one token reads of a dense decoder's weights.

    Raises BenchError for weights of which it cannot be said: experts, quantised or offloaded ones, several devices.
    """
    base = innermost(model)
    output = base.get_output_embeddings()
    if output is None:
        raise BenchError(f"{type(base).__name__} has no head that makes logits; pass a causal language model")
    head = output.weight
    matrices: list[torch.Tensor] = []
    vectors: list[torch.Tensor] = []
    for name, weight in _without_tables(base):
        if weight is head:
            continue
        if weight.ndim > 2:
            raise BenchError(
                f"the weight {name} has {weight.ndim} dimensions: of experts a token reads some and not others, so "
                "bytes per token are not known; pass a dense model"
            )
        (matrices if weight.ndim == 2 else vectors).append(weight.detach())
    reads = Reads(tuple(matrices), head.detach(), tuple(vectors))
    _check(reads)
    return reads


def read_cache_bytes(model: torch.nn.Module, context: int) -> int:
    """Keys and values of `context` positions in all layers, as this runtime holds and reads them."""
    return ModelFacts.of(model).bytes_per_token * context


def _without_tables(base: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters that are not looked up by row; a tied table comes back as the head."""
    tables = {
        id(weight)
        for module in base.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    return ((name, weight) for name, weight in base.named_parameters() if id(weight) not in tables)


def _check(reads: Reads) -> None:
    weights = [*reads.in_order(), *reads.vectors]
    strange = next((weight.dtype for weight in weights if not weight.is_floating_point()), None)
    if strange is not None:
        raise BenchError(f"weights of {strange} are quantised; the roofline reads plain ones: load it without")
    devices = sorted({str(weight.device) for weight in weights})
    if len(devices) > 1 or devices == ["meta"]:
        raise BenchError(
            f"the weights lie on {', '.join(devices)}; the roofline measures one device: load it without device_map"
        )


def _nbytes(tensors: tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
