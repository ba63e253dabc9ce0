"""Key-value memory in numbered slots, ragged in every direction.

A slot holds one sequence; each layer of each slot has its own length, so that taking tokens back is a change of a
number and never a copy. Buffers are allocated when a layer is first written and grow by doubling.

This module does not know models, masks, attention or tokens: it stores what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from evodraft.errors import CapacityError

_FIRST_CAPACITY = 64  # columns of a buffer when it is first allocated, if the slots may hold as many


class KeyValues(NamedTuple):
    """Keys and values of one layer, as attention reads them: a view of the buffers wherever possible."""

    keys: torch.Tensor  # [batch, kv_heads, columns, key_dim]
    values: torch.Tensor  # [batch, kv_heads, columns, value_dim]


@dataclass(frozen=True, slots=True)
class CachePass:
    """Where one pass reads and writes. Made by `SlotCache.plan`; valid until the lengths of its slots change.

    Row r writes `widths[r]` tokens of slot `slots[r]` from position `starts[r]` on. The remaining columns of the row
    are padding: they go to a spare column that nobody reads.
    """

    slots: tuple[int, ...]  # [batch]
    starts: tuple[int, ...]  # [batch]
    widths: tuple[int, ...]  # [batch]
    width: int
    columns: int  # positions that attention sees, the same for all rows
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
    calls `write`; `commit` advances the lengths. A pass that is abandoned after `begin` leaves all lengths as they
    were for every caller that appends at `length(slot)`.

    >>> cache = SlotCache(num_layers=1, num_slots=2, max_length=8)
    >>> step = cache.plan(slots=[0, 1], widths=[2, 1], width=2)
    >>> cache.begin(step)
    >>> cache.write(0, step, torch.ones(2, 1, 2, 4), torch.ones(2, 1, 2, 4)).keys.shape
    torch.Size([2, 1, 8, 4])
    >>> cache.commit(step)
    >>> cache.length(0), cache.length(1)
    (2, 1)
    """

    def __init__(self, num_layers: int, num_slots: int, max_length: int, *, bucket: int = 16) -> None:
        for name, value in (("num_layers", num_layers), ("num_slots", num_slots), ("max_length", max_length)):
            if value < 1:
                raise CapacityError(f"{name}={value} is below 1; a cache needs at least one; raise {name}")
        self.num_layers = num_layers
        self.num_slots = num_slots
        self.max_length = max_length
        self._bucket = bucket
        self._buffers: list[KeyValues | None] = [None] * num_layers  # each [slots, kv_heads, capacity + 1, dim]
        self._lengths = [[0] * num_layers for _ in range(num_slots)]
        self._touched = [0] * num_slots  # columns written since the slot was last emptied

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

    def release(self, slot: int) -> None:
        """Empties a slot, and scrubs it: a NaN left behind would reach its next user."""
        self._lengths[self._checked(slot)] = [0] * self.num_layers
        self.scrub(slot)

    def scrub(self, slot: int) -> None:
        """Zeroes what was written beyond the slot's length: masked values are multiplied by 0, and 0 * NaN is NaN."""
        start, end = max(self._lengths[self._checked(slot)]), self._touched[slot]
        self._touched[slot] = min(start, end)
        for buffers in self._buffers:
            if buffers is not None:
                buffers.keys[slot, :, start:end].zero_()
                buffers.values[slot, :, start:end].zero_()

    # ---- a pass ----------------------------------------------------------------------------------------------

    def plan(self, slots: Sequence[int], widths: Sequence[int], width: int) -> CachePass:
        """Checks that every row fits. Raises CapacityError; changes nothing."""
        assert len(slots) == len(widths) == len(set(slots)), f"slots {slots} and widths {widths}: one each, distinct"
        assert widths and min(widths) >= 1 and max(widths) <= width, f"widths {widths} outside 1..{width}"
        starts = tuple(min(self._lengths[self._checked(slot)]) for slot in slots)
        for slot, start, row_width in zip(slots, starts, widths, strict=True):
            if start + row_width > self.max_length:
                raise CapacityError(
                    f"slot {slot} would hold {start + row_width} tokens ({start} + {row_width}), the limit is "
                    f"max_length={self.max_length}; shorten the request or build the decoder with a larger max_length"
                )
        used = max(start + row_width for start, row_width in zip(starts, widths, strict=True))
        columns = min(-(-used // self._bucket) * self._bucket, self.max_length)
        is_range = all(slot == slots[0] + row for row, slot in enumerate(slots))
        return CachePass(
            slots=tuple(slots),
            starts=starts,
            widths=tuple(widths),
            width=width,
            columns=columns,
            first_slot=slots[0] if is_range else None,
            is_aligned=is_range and min(widths) == width and min(starts) == max(starts),
        )

    def begin(self, step: CachePass) -> None:
        """Declares what the pass may overwrite: layers that reach further than its start lose those positions."""
        for slot, start, end in zip(step.slots, step.starts, step.ends, strict=True):
            if max(self._lengths[slot]) > start:
                self.crop(slot, start)
            self._touched[slot] = max(self._touched[slot], end)

    def write(
        self,
        layer: int,
        step: CachePass,
        keys: torch.Tensor,  # [batch, kv_heads, width, key_dim]
        values: torch.Tensor,  # [batch, kv_heads, width, value_dim]
    ) -> KeyValues:
        """Stores the new keys and values of one layer and returns the first `step.columns` positions of each row."""
        buffers = self._buffers[layer]
        if buffers is None or buffers.keys.shape[2] <= step.columns:
            buffers = self._buffers[layer] = self._grown(buffers, step.columns, keys, values)
        return KeyValues(_write(buffers.keys, step, keys), _write(buffers.values, step, values))

    def commit(self, step: CachePass) -> None:
        """Advances the lengths: all layers of each row now hold what the pass wrote."""
        for slot, end in zip(step.slots, step.ends, strict=True):
            self._lengths[slot] = [end] * self.num_layers

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

    def _grown(self, old: KeyValues | None, columns: int, keys: torch.Tensor, values: torch.Tensor) -> KeyValues:
        wanted = max(columns, _FIRST_CAPACITY if old is None else 2 * (old.keys.shape[2] - 1))
        capacity = min(wanted, self.max_length)
        like = (keys, values) if old is None else (old.keys, old.values)
        # Zeros, never empty memory: masked positions are multiplied by 0, and 0 * NaN is NaN. Buffers born in
        # inference mode could not be written outside of it.
        with torch.inference_mode(False):
            new = [t.new_zeros(self.num_slots, t.shape[1], capacity + 1, t.shape[3]) for t in like]
        for source, target in zip(old or (), new, strict=False):
            target[:, :, : source.shape[2] - 1].copy_(source[:, :, :-1])
        return KeyValues(*new)

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
