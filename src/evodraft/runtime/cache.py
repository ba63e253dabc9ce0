"""Key-value memory in numbered slots, ragged in every direction.

A slot holds one sequence; each layer of each slot has its own length, so that taking tokens back is a change of a
number and never a copy; only what is kept of a tree moves. Buffers are allocated when a layer is first written, for
the slots in use and as long as the longest of them needs, and follow that need by doubling.

This module does not know models, masks, attention or tokens: it stores what it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch

from evodraft.errors import CapacityError
from evodraft.runtime.trees import check_path, checked_parents

_FIRST_CAPACITY = 64  # columns of a buffer when it is first allocated, if the slots may hold as many


class KeyValues(NamedTuple):
    """Keys and values of one layer, as attention reads them: a view of the buffers wherever possible."""

    keys: torch.Tensor  # [batch, kv_heads, columns, key_dim]
    values: torch.Tensor  # [batch, kv_heads, columns, value_dim]


class BufferShape(NamedTuple):
    """What a layer stores for each position."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class CachePass:
    """Where one pass reads and writes. Made by `SlotCache.plan`; valid until the lengths of its slots change.

    Row r writes `widths[r]` tokens of slot `slots[r]` from column `starts[r]` on. The remaining columns of the row
    are padding: they go to a spare column that nobody reads. A column is its token's position, but for the nodes of a
    tree: node n is stored at column `starts[r] + n` and stands at position `starts[r] + depth(n)`.
    """

    slots: tuple[int, ...]  # [batch]
    starts: tuple[int, ...]  # [batch]
    widths: tuple[int, ...]  # [batch]
    width: int
    layers: range  # that the pass writes
    parents: tuple[tuple[int, ...], ...] | None  # per row and node: an earlier node or HELD; None = all rows are chains
    columns: int  # that attention sees, the same for all rows
    num_rows: int  # rows that a buffer needs for these slots
    first_slot: int | None  # set if the slots are first_slot, first_slot + 1, ...: then rows are read as a view
    is_aligned: bool  # all rows write the same positions without padding: one slice does for all of them
    _indexes: dict[object, torch.Tensor] = field(default_factory=dict)

    @property
    def ends(self) -> list[int]:
        """Length of each row's slot after the pass."""
        return [start + width for start, width in zip(self.starts, self.widths, strict=True)]

    def row_index(self, device: torch.device) -> torch.Tensor:  # [batch]
        """The slots as an index tensor on `device`."""
        index = self._indexes.get(device)
        if index is None:
            index = self._indexes[device] = torch.tensor(self.slots, device=device)
        return index

    def write_index(self, buffer: torch.Tensor) -> torch.Tensor:  # [batch * kv_heads * width]
        """Rows of `buffer.view(-1, dim)` that the pass writes, in the order of `states.reshape(-1, dim)`."""
        num_heads, num_columns = buffer.shape[1], buffer.shape[2]
        key = (num_heads, num_columns, buffer.device)
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = self._build_write_index(num_heads, num_columns, buffer.device)
        return index

    def _build_write_index(self, num_heads: int, num_columns: int, device: torch.device) -> torch.Tensor:
        starts, widths = torch.tensor([self.starts, self.widths]).unsqueeze(-1)
        offsets = torch.arange(self.width)
        positions = (starts + offsets).masked_fill_(offsets >= widths, num_columns - 1)  # [batch, width]
        heads = torch.tensor(self.slots)[:, None] * num_heads + torch.arange(num_heads)  # [batch, kv_heads]
        index: torch.Tensor = (heads[:, :, None] * num_columns + positions[:, None]).flatten()
        return index.to(device)


class SlotCache:
    """Keys and values of `num_slots` sequences in `num_layers` layers.

    The life of a pass: `plan` checks that it fits and changes nothing; `begin` makes room in the books; every layer
    calls `write`, or `buffers` and stores for itself; `commit` advances the lengths. A pass that is abandoned after
    `begin` leaves all lengths as they were for every caller that appends at `length(slot)`. After a tree, `select` or
    `crop` must leave a single path before the slot goes on.

    `budget_tokens` (rows x columns) bounds what buffers take ahead of need, never what is needed.

    >>> cache = SlotCache(num_layers=1, num_slots=2, max_length=8)
    >>> step = cache.plan(slots=[0, 1], widths=[2, 1], width=2)
    >>> cache.begin(step)
    >>> cache.write(0, step, torch.ones(2, 1, 2, 4), torch.ones(2, 1, 2, 4)).keys.shape
    torch.Size([2, 1, 8, 4])
    >>> cache.commit(step)
    >>> cache.length(0), cache.length(1)
    (2, 1)
    """

    def __init__(
        self, num_layers: int, num_slots: int, max_length: int, *, bucket: int = 16, budget_tokens: int | None = None
    ) -> None:
        for name, value in (("num_layers", num_layers), ("num_slots", num_slots), ("max_length", max_length)):
            if value < 1:
                raise CapacityError(f"{name}={value} is below 1; a cache needs at least one; raise {name}")
        self.num_layers = num_layers
        self.num_slots = num_slots
        self.max_length = max_length
        self._bucket = bucket
        self._budget_tokens = num_slots * max_length if budget_tokens is None else budget_tokens
        self._buffers: list[KeyValues | None] = [None] * num_layers  # each [rows, kv_heads, capacity + 1, dim]
        self._lengths = [[0] * num_layers for _ in range(num_slots)]
        self._touched = [0] * num_slots  # columns written since the slot was last emptied
        self._room = 0, 0  # rows and columns that every buffer has
        self.num_resizes = 0  # while it stays the same, so do the buffers

    # ---- the books -------------------------------------------------------------------------------------------

    def length(self, slot: int, layer: int | None = None) -> int:
        """Tokens held by a slot: of one layer, or of its shortest layer."""
        lengths = self._lengths[self._checked(slot)]
        return min(lengths) if layer is None else lengths[layer]

    def crop(self, slot: int, length: int, layers: range | None = None) -> None:
        """Forgets the positions from `length` on. Layers that are already shorter stay as they are."""
        if length < 0:
            raise CapacityError(f"cannot crop slot {slot} to {length} tokens; the least is 0; pass 0 to empty it")
        lengths = self._lengths[self._checked(slot)]
        for layer in range(self.num_layers) if layers is None else layers:
            if lengths[layer] > length:
                lengths[layer] = length

    def select(self, slot: int, start: int, nodes: Sequence[int]) -> None:
        """Of the tree written from column `start` on, keeps one path: `nodes`, from the top down, in any layer that
        reaches beyond `start`. The length becomes `start + len(nodes)`."""
        lengths = self._lengths[self._checked(slot)]
        written = [layer for layer, length in enumerate(lengths) if length > start]
        check_path(nodes, min((lengths[layer] - start for layer in written), default=0))
        in_place = next((index for index, node in enumerate(nodes) if node != index), len(nodes))
        if in_place < len(nodes):
            layers = [buffers for layer in written if (buffers := self._buffers[layer])]
            _move(layers, slot, [start + node for node in nodes[in_place:]], start + in_place)
        self.crop(slot, start + len(nodes))

    def release(self, slot: int) -> None:
        """Empties a slot, and scrubs it: a NaN left behind would reach its next user."""
        self._lengths[self._checked(slot)] = [0] * self.num_layers
        self.scrub(slot)

    def scrub(self, slot: int) -> None:
        """Zeroes what was written beyond the slot's length: masked values are multiplied by 0, and 0 * NaN is NaN."""
        start, end = max(self._lengths[self._checked(slot)]), self._touched[slot]
        self._touched[slot] = min(start, end)
        for tensor in self._tensors_with(slot):
            tensor[slot, :, start:end].zero_()

    # ---- a pass ----------------------------------------------------------------------------------------------

    def plan(
        self,
        slots: Sequence[int],
        widths: Sequence[int],
        width: int,
        *,
        parents: Sequence[Sequence[int]] | None = None,
        layers: range | None = None,
    ) -> CachePass:
        """Checks that every row fits in `layers` (default: all), appended to the shortest of them. Raises CapacityError
        for lack of room and ConfigError for `parents` that are no trees; changes nothing."""
        layers = range(self.num_layers) if layers is None else layers
        assert len(slots) == len(widths) == len(set(slots)), f"slots {slots} and widths {widths}: one each, distinct"
        assert widths and min(widths) >= 1 and max(widths) <= width, f"widths {widths} outside 1..{width}"
        assert 0 <= layers.start < layers.stop <= self.num_layers, f"{layers} outside 0..{self.num_layers}"
        starts = tuple(min(self._lengths[self._checked(slot)][layers.start : layers.stop]) for slot in slots)
        for slot, start, row_width in zip(slots, starts, widths, strict=True):
            self._check_room(slot, start, row_width)
        used = max(start + row_width for start, row_width in zip(starts, widths, strict=True))
        is_range = all(slot == slots[0] + row for row, slot in enumerate(slots))
        return CachePass(
            slots=tuple(slots),
            starts=starts,
            widths=tuple(widths),
            width=width,
            layers=layers,
            parents=checked_parents(parents, widths),
            columns=min(-(-used // self._bucket) * self._bucket, self.max_length),
            num_rows=max(slots) + 1,
            first_slot=slots[0] if is_range else None,
            is_aligned=is_range and min(widths) == width and min(starts) == max(starts),
        )

    def begin(self, step: CachePass) -> None:
        """Declares what the pass may overwrite: layers of its own that reach further than its start lose those
        positions."""
        for slot, start, end in zip(step.slots, step.starts, step.ends, strict=True):
            if max(self._lengths[slot]) > start:
                self.crop(slot, start, step.layers)
            self._touched[slot] = max(self._touched[slot], end)

    def buffers(self, layer: int, step: CachePass, like: BufferShape) -> KeyValues:
        """The whole buffers of a layer, each [rows, kv_heads, capacity + 1, dim], with room for the pass.

        Slot s is row s. Who writes here itself puts node n of row r at column `starts[r] + n` and nothing anywhere
        else but in the last column, which nobody reads. They may be others after any later call for the layer.
        """
        buffers = self._buffers[layer]
        if buffers is None or buffers.keys.shape[0] < step.num_rows or buffers.keys.shape[2] <= step.columns:
            buffers = self._buffers[layer] = self._resized(buffers, step, like)
            rows = (0 if other is None else other.keys.shape[0] for other in self._buffers)
            self._room = min(rows), 0 if None in self._buffers else self.capacity
            self.num_resizes += 1
        return buffers

    def has_room(self, step: CachePass) -> bool:
        """Whether `buffers` would resize nothing for this pass, in any layer."""
        rows, columns = self._room
        return step.num_rows <= rows and step.columns <= columns

    def write(
        self,
        layer: int,
        step: CachePass,
        keys: torch.Tensor,  # [batch, kv_heads, width, key_dim]
        values: torch.Tensor,  # [batch, kv_heads, width, value_dim]
    ) -> KeyValues:
        """Stores the new keys and values of one layer and returns the first `step.columns` columns of each row."""
        like = BufferShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype, keys.device)
        buffers = self.buffers(layer, step, like)
        return KeyValues(_write(buffers.keys, step, keys), _write(buffers.values, step, values))

    def commit(self, step: CachePass) -> None:
        """Advances the lengths: the layers of the pass now hold what it wrote."""
        for slot, end in zip(step.slots, step.ends, strict=True):
            self._lengths[slot][step.layers.start : step.layers.stop] = [end] * len(step.layers)

    # ---- memory ----------------------------------------------------------------------------------------------

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one position of one slot takes in all layers; 0 before the first pass, when nobody knows."""
        return sum(_column_bytes(tensor) for buffers in self._buffers if buffers for tensor in buffers)

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all buffers as they stand now, spare columns included."""
        return sum(tensor.nbytes for buffers in self._buffers if buffers for tensor in buffers)

    @property
    def capacity(self) -> int:
        """Columns that the smallest allocated buffer can hold without growing; 0 before the first pass."""
        return min((buffers.keys.shape[2] - 1 for buffers in self._buffers if buffers), default=0)

    def _resized(self, old: KeyValues | None, step: CachePass, like: BufferShape) -> KeyValues:
        """Buffers as large as the pass and the slots in use need now: what nobody uses any more is given back."""
        reaches = [max(lengths) for lengths in self._lengths]
        num_rows = max([step.num_rows, *(slot + 1 for slot, reach in enumerate(reaches) if reach)])
        capacity = self._capacity(num_rows, max(step.columns, *reaches))
        size = (num_rows, like.num_kv_heads, capacity + 1)
        # Zeros, never empty memory: masked positions are multiplied by 0, and 0 * NaN is NaN. Buffers born in
        # inference mode could not be written outside of it.
        with torch.inference_mode(False):
            keys = torch.zeros(*size, like.key_dim, dtype=like.dtype, device=like.device)
            values = torch.zeros(*size, like.value_dim, dtype=like.dtype, device=like.device)
        new = KeyValues(keys, values)
        for source, target in zip(old or (), new, strict=False):
            rows, columns = min(source.shape[0], num_rows), min(source.shape[2] - 1, capacity)
            target[:rows, :, :columns].copy_(source[:rows, :, :columns])
        return new

    def _capacity(self, num_rows: int, columns: int) -> int:
        """The columns needed, doubled up from the first capacity as far as lengths and budget allow."""
        doubled = _FIRST_CAPACITY
        while doubled < columns:
            doubled *= 2
        return max(columns, min(doubled, self.max_length, self._budget_tokens // num_rows))

    def _tensors_with(self, slot: int) -> Iterator[torch.Tensor]:  # each [rows, kv_heads, capacity + 1, dim]
        """Every buffer that has a row for the slot."""
        for buffers in self._buffers:
            if buffers is not None and buffers.keys.shape[0] > slot:
                yield from buffers

    def _check_room(self, slot: int, start: int, width: int) -> None:
        if start + width > self.max_length:
            raise CapacityError(
                f"slot {slot} would hold {start + width} tokens ({start} + {width}), the limit is "
                f"max_length={self.max_length}; shorten the request or build the decoder with a larger max_length"
            )

    def _checked(self, slot: int) -> int:
        if not 0 <= slot < self.num_slots:
            raise CapacityError(
                f"slot {slot} does not exist, slots are 0..{self.num_slots - 1}; build the decoder with more num_slots"
            )
        return slot


def _write(buffer: torch.Tensor, step: CachePass, states: torch.Tensor) -> torch.Tensor:
    if step.is_aligned:
        _rows(buffer, step).narrow(2, step.starts[0], step.width).copy_(states)
    else:
        buffer.view(-1, buffer.shape[3]).index_copy_(0, step.write_index(buffer), states.reshape(-1, states.shape[3]))
    return _rows(buffer.narrow(2, 0, step.columns), step)


def _rows(buffer: torch.Tensor, step: CachePass) -> torch.Tensor:
    """The rows of a pass: a view if the slots are a range, else a copy."""
    if step.first_slot is None:
        return buffer.index_select(0, step.row_index(buffer.device))
    return buffer.narrow(0, step.first_slot, len(step.slots))


def _column_bytes(buffer: torch.Tensor) -> int:
    return buffer.shape[1] * buffer.shape[3] * buffer.element_size()


def _move(layers: Sequence[KeyValues], slot: int, sources: Sequence[int], target: int) -> None:
    """Copies columns of one slot to `target` and on, in every one of the layers."""
    indexes: dict[torch.device, torch.Tensor] = {}
    for tensor in chain.from_iterable(layers):
        index = indexes.get(tensor.device)
        if index is None:
            index = indexes[tensor.device] = torch.tensor(sources, device=tensor.device)
        tensor[slot, :, target : target + len(sources)] = tensor[slot].index_select(1, index)
