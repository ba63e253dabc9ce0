"""NativeStep: the layers of a Llama-like model in C++, on the model's own weights in the processor's memory.

Every token's result is computed by itself, in an order that depends on its position alone, so neither the width of a
pass nor its other rows can change a bit of it. Sums and what is handed from layer to layer are float32.

Does not know how long slots are, and copies no weights but norms and biases: a matrix that is written to is read as it
is, the copies follow with `refresh`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch.nn import functional

from evodraft.errors import CapacityError
from evodraft.runtime.cache import BufferShape
from evodraft.runtime.changes import Changes
from evodraft.runtime.family import MATRIX_NAMES
from evodraft.runtime.native import library as native
from evodraft.runtime.native.linear import native_linear
from evodraft.runtime.step import LayersOutput

if TYPE_CHECKING:
    from evodraft.runtime.cache import CachePass, SlotCache
    from evodraft.runtime.family import FamilyWeights, LayerWeights, Matrix
    from evodraft.runtime.native.library import Library

_NORMS: Final = (
    *("attention_norm", "mlp_norm", "attention_out_norm", "mlp_out_norm"),
    *("query_norm", "key_norm", "beside_norm"),
)


class NativeStep:
    """Computes with a compiled library; as many threads as torch has."""

    name = "native"

    def __init__(self, weights: FamilyWeights, library: Library) -> None:
        self._weights = weights
        self.library = library
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []  # (float32, of the model): norms and biases
        self._is_bfloat16 = weights.dtype == torch.bfloat16
        head_bias = None if weights.head.bias is None else self._copy(weights.head.bias)
        self._head = native_linear(library, weights.head.weight, head_bias)
        self.final_norm = self._copy(weights.final_norm)  # [hidden] float32
        self._buffers = _KnownBuffers()
        layers = [self._layer(layer) for layer in weights.layers]
        self._layers = (native.Layer * len(layers))(*layers)
        self.model = native.Model(
            layers=self._layers,
            num_heads=weights.num_heads,
            num_kv_heads=weights.num_kv_heads,
            head_dim=weights.head_dim,
            rotary_dim=weights.rotary_dim,
            scaling=weights.scaling,
            hidden=weights.hidden_size,
            intermediate=weights.layers[0].gate.weight.shape[0],
            norm_epsilon=weights.norm_eps,
            is_bfloat16=self._is_bfloat16,
        )
        dim = weights.head_dim
        self._changes = Changes(vector for _, vector in self._copies)
        self._shape = BufferShape(weights.num_kv_heads, dim, dim, weights.dtype, weights.device)

    def refresh(self) -> bool:
        """Matrices are read where they lie; what is copied is copied again."""
        is_changed = self._changes.found()
        if is_changed:
            for copy, vector in self._copies:
                copy.copy_(vector)
        return is_changed

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:  # [batch, width] -> [batch, width, hidden]
        return functional.embedding(token_ids, self._weights.embedding.detach()).float()

    def layers(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden] float32
        cache: SlotCache,
        step: CachePass,
        first: int,
        last: int,
        taps: Collection[int],
        beside: torch.Tensor | None = None,  # [batch, width, hidden] float32: what layers of two inputs read too
        known: Sequence[int] | None = None,  # [batch]
    ) -> LayersOutput:
        """The first `known` nodes of each row were computed by a pass over the same slots from the same start: they are
        not computed again, and come back as zeros."""
        real = _real_tokens(step, known)
        rows = hidden.flatten(0, 1) if real is None else hidden.flatten(0, 1)[real]  # [tokens, hidden]
        rows = rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format)  # the library overwrites it
        tapped = {layer: torch.empty_like(rows) for layer in taps if first < layer <= last}
        more = None if beside is None else beside.flatten(0, 1) if real is None else beside.flatten(0, 1)[real]
        books = books_of(step) if known is None else _books_of_trees(step, known)
        call = self.call(cache, step, books, first, last, None if more is None else more.float().contiguous())
        call.num_known = 0 if known is None else sum(known)
        if tapped:
            call.taps = native.pointers([tapped[i].data_ptr() if i in tapped else None for i in range(1, last + 1)])
        if not self.library.layers(self.model, call, rows.data_ptr(), first, last):
            raise short_of_memory(rows.shape[0])
        size = hidden.shape
        return LayersOutput(_spread(rows, real, size), {i: _spread(tapped[i], real, size) for i in tapped})

    def call(
        self,
        cache: SlotCache,
        step: CachePass,
        books: Sequence[int],  # [4 * tokens], of `books_of`
        first: int,
        last: int,
        beside: torch.Tensor | None,  # [tokens, hidden] float32, contiguous
    ) -> native.Pass:
        """A pass as the library takes it, without taps; it keeps alive what it points to."""
        cosines, sines = self._weights.rotary.tables(step.columns)
        buffers = self._buffers.at(cache, step, first, last, self._shape)
        num_tokens = len(books) // 4
        numbers = (ctypes.c_int64 * len(books))(*books)
        place, stride = ctypes.addressof(numbers), num_tokens * ctypes.sizeof(ctypes.c_int64)
        call = native.Pass(
            num_tokens,
            0,
            *(place + part * stride for part in range(4)),
            cosines.data_ptr(),
            sines.data_ptr(),
            buffers.keys,
            buffers.values,
            buffers.columns,
            native.pointers([None] * last),
            None if beside is None else beside.data_ptr(),
            torch.get_num_threads(),
        )
        call.kept = (numbers, beside, cosines, sines)
        return call

    def norm(self, hidden: torch.Tensor) -> torch.Tensor:  # [batch, width, hidden]
        tokens = hidden.float().contiguous()
        normed = torch.empty_like(tokens)
        size = tokens.shape[-1]
        self.library.norm(
            self.final_norm.data_ptr(),
            self._weights.norm_eps,
            tokens.data_ptr(),
            tokens.shape[0] * tokens.shape[1],
            size,
            normed.data_ptr(),
        )
        return normed

    def head(self, hidden: torch.Tensor) -> torch.Tensor:  # [batch, width, hidden] -> [batch, width, vocab]
        return self._head(hidden)

    def _layer(self, weights: LayerWeights) -> native.Layer:
        layer = native.Layer(window=weights.window or 0, is_residual_normed=weights.is_residual_normed)
        for name in MATRIX_NAMES:
            setattr(layer, name, self._matrix(getattr(weights, name)))
        for name in _NORMS:
            setattr(layer, name, self._address(getattr(weights, name)))
        layer.query_norm_size, layer.key_norm_size = (
            0 if norm is None else norm.shape[0] for norm in (weights.query_norm, weights.key_norm)
        )
        return layer

    def _matrix(self, matrix: Matrix) -> native.Matrix:
        rows, columns = matrix.weight.shape
        assert matrix.weight.is_contiguous(), "the native step reads matrices row by row"
        return native.Matrix(matrix.weight.data_ptr(), self._address(matrix.bias), rows, columns)

    def _address(self, vector: torch.Tensor | None) -> int | None:
        return None if vector is None else self._copy(vector).data_ptr()

    def _copy(self, vector: torch.Tensor) -> torch.Tensor:
        """In float32; follows the vector."""
        copy = vector.detach().to(torch.float32, copy=True).contiguous()
        self._copies.append((copy, vector.detach()))
        return copy


class _Addresses(NamedTuple):
    """Where the keys and values of each layer lie; entries before the first layer of a pass are null."""

    keys: ctypes.Array[ctypes.c_void_p]
    values: ctypes.Array[ctypes.c_void_p]
    columns: ctypes.Array[ctypes.c_int64]


class _KnownBuffers:
    """Addresses of the buffers of the last pass, which mostly are those of the next one. Keeps no cache alive."""

    def __init__(self) -> None:
        self._cache: Callable[[], SlotCache | None] = lambda: None
        self._key: tuple[int, int, int] | None = None
        self._addresses = _Addresses(native.pointers([]), native.pointers([]), (ctypes.c_int64 * 0)())

    def at(self, cache: SlotCache, step: CachePass, first: int, last: int, like: BufferShape) -> _Addresses:
        """Those of the layers `first` .. `last` - 1, with room for the pass."""
        key = (cache.num_resizes, first, last)
        if key != self._key or self._cache() is not cache or not cache.has_room(step):
            buffers = [cache.buffers(layer, step, like) for layer in range(first, last)]
            none = [None] * first
            self._addresses = _Addresses(
                native.pointers([*none, *(keys.data_ptr() for keys, _ in buffers)]),
                native.pointers([*none, *(values.data_ptr() for _, values in buffers)]),
                (ctypes.c_int64 * last)(*[0] * first, *(keys.shape[2] for keys, _ in buffers)),
            )
            self._cache, self._key = weakref.ref(cache), (cache.num_resizes, first, last)
        return self._addresses


def books_of(step: CachePass, widths: Sequence[int] | None = None) -> list[int]:  # [4 * tokens]
    """Slots, starts, nodes and parents of all tokens that are not padding; `widths` if only the first of each row are
    there."""
    slots: list[int] = []
    starts: list[int] = []
    nodes: list[int] = []
    parents: list[int] = []
    for row, width in enumerate(step.widths if widths is None else widths):
        first = len(slots)
        slots.extend([step.slots[row]] * width)
        starts.extend([step.starts[row]] * width)
        nodes.extend(range(width))
        tree = range(-1, width - 1) if step.parents is None else step.parents[row]
        parents.extend(first + parent if parent >= 0 else -1 for parent in tree)
    return [*slots, *starts, *nodes, *parents]


def _books_of_trees(step: CachePass, known: Sequence[int]) -> list[int]:  # [4 * tokens]
    """The same, with the known nodes of all rows before the others."""
    rows = range(len(step.widths))
    places = [(row, node) for row in rows for node in range(known[row])]
    places += [(row, node) for row in rows for node in range(known[row], step.widths[row])]
    numbers = {place: number for number, place in enumerate(places)}
    trees = [range(-1, width - 1) for width in step.widths] if step.parents is None else step.parents
    return [
        *(step.slots[row] for row, _ in places),
        *(step.starts[row] for row, _ in places),
        *(node for _, node in places),
        *(numbers.get((row, trees[row][node]), -1) for row, node in places),
    ]


def short_of_memory(num_tokens: int) -> CapacityError:
    """What is raised where the library returned that it had not enough."""
    return CapacityError(
        f"there is no memory left for a pass over {num_tokens} tokens; lower prefill_budget or max_batch"
    )


def _real_tokens(step: CachePass, known: Sequence[int] | None) -> torch.Tensor | None:  # [tokens]
    """Where the tokens that are computed lie in the flattened pass; None if all are."""
    if min(step.widths) == step.width and known is None:
        return None
    return torch.tensor(list(_places(step, known)))


def _places(step: CachePass, known: Sequence[int] | None) -> Iterator[int]:
    for row, width in enumerate(step.widths):
        yield from range(row * step.width + (0 if known is None else known[row]), row * step.width + width)


def _spread(rows: torch.Tensor, real: torch.Tensor | None, size: torch.Size) -> torch.Tensor:
    """Rows [tokens, hidden] back in their places [batch, width, hidden]; all others are zero."""
    if real is None:
        return rows.view(size)
    spread = rows.new_zeros(size[0] * size[1], size[2])
    spread[real] = rows
    return spread.view(size)
