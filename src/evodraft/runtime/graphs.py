"""Passes of a few tokens per row, recorded once and replayed: an accelerator gets one command instead of hundreds.

A recording is valid for one shape and for the buffers it was made with. Shapes are rounded up to a few, and what is
too wide, or is seen for the first time, runs as it is. This module does not know what layers compute.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from evodraft.runtime.step import LayersOutput

if TYPE_CHECKING:
    from evodraft.runtime.cache import CachePass, KeyValues, SlotCache
    from evodraft.runtime.eager_layer import PassTensors
    from evodraft.runtime.eager_step import EagerStep

WIDTHS: Final = (1, 2, 4, 8, 16)
_FIRST_COLUMNS: Final = 256  # attention over a few more masked columns costs less than another recording

Work = Callable[[], LayersOutput]


class Recording(NamedTuple):
    """Work that can be done again on whatever its input tensors then hold. Each time `output` is overwritten."""

    output: LayersOutput
    replay: Callable[[], None]


Recorder = Callable[[Work], Recording]  # may do the work or not: whoever wants results replays


class GraphKey(NamedTuple):
    """What a recording cannot change. Two passes of one key differ in the contents of tensors only."""

    batch: int
    width: int
    columns: int
    first_row: int | None
    layers: tuple[int, int]
    taps: tuple[int, ...]


class GraphTable:
    """Recordings by key, `limit` at most; which was not used for the longest goes first.

    Recordings hold addresses. `expect` is told where the buffers of some layers are now; if they were anywhere else
    when something was recorded, all recordings are dropped. No buffer is kept alive for this.

    >>> table = GraphTable(limit=2)
    >>> key = GraphKey(1, 1, 256, 0, (0, 2), ())
    >>> table.seen_before(key), table.seen_before(key)
    (False, True)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._recorded: OrderedDict[GraphKey, Recorded | None] = OrderedDict()  # None: seen, not recorded
        self._addresses: dict[int, tuple[int, ...]] = {}  # layer -> where and how long its buffers are

    def __len__(self) -> int:
        return len(self._recorded)

    def expect(self, first: int, buffers: Sequence[KeyValues]) -> None:
        """Drops everything if a layer's buffers moved or grew."""
        for layer, (keys, values) in enumerate(buffers, start=first):
            address = (keys.data_ptr(), values.data_ptr(), keys.shape[2])
            if self._addresses.setdefault(layer, address) != address:
                self._recorded.clear()
                self._addresses = {layer: address}

    def seen_before(self, key: GraphKey) -> bool:
        """Whether the key was asked for before: what comes once is not worth a recording."""
        if key in self._recorded:
            self._recorded.move_to_end(key)
            return True
        self._recorded[key] = None
        if len(self._recorded) > self._limit:
            self._recorded.popitem(last=False)
        return False

    def get(self, key: GraphKey) -> Recorded | None:
        return self._recorded.get(key)

    def put(self, key: GraphKey, recorded: Recorded) -> None:
        self._recorded[key] = recorded


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording and the tensors it reads."""

    hidden: torch.Tensor  # [batch, width, hidden]
    inputs: PassTensors
    recording: Recording

    def load(self, hidden: torch.Tensor, inputs: PassTensors) -> None:
        """What the next replay works on; `hidden` may be narrower than the recording."""
        self.hidden[:, : hidden.shape[1]].copy_(hidden)
        for target, source in zip(self.inputs.tensors, inputs.tensors, strict=True):
            target.copy_(source)


class GraphedStep:
    """An EagerStep whose narrow passes are recorded from their second time on.

    `record` makes the recordings: `cuda_recorder(device)` for CUDA. Memory beyond the step's own: what
    one pass needs between its operators, and about a megabyte for each of at most `limit` recordings.
    """

    def __init__(self, step: EagerStep, record: Recorder, limit: int = 64) -> None:
        self.name = "graphs"
        self._step = step
        self._record = record
        self._limit = limit
        self._table = GraphTable(limit)
        self.embed = step.embed
        self.norm = step.norm
        self.head = step.head

    def refresh(self) -> bool:
        """Recordings read the weights that were there when they were made."""
        is_changed = self._step.refresh()
        if is_changed:
            self._table = GraphTable(self._limit)
        return is_changed

    def layers(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
        cache: SlotCache,
        step: CachePass,
        first: int,
        last: int,
        taps: Collection[int],
    ) -> LayersOutput:
        width = rounded_width(step.width)
        if width is None:
            return self._step.layers(hidden, cache, step, first, last, taps)
        buffers = self._step.buffers(cache, step, first, last)
        self._table.expect(first, buffers)
        capacity = min(keys.shape[2] for keys, _ in buffers) - 1
        padded = replace(step, width=width, columns=rounded_columns(step.columns, capacity))
        key = GraphKey(len(step.slots), width, padded.columns, step.first_slot, (first, last), tuple(sorted(set(taps))))
        inputs = self._step.prepare(padded)
        if not self._table.seen_before(key):
            return _narrowed(self._run(key, _widened(hidden, width), inputs, buffers), step.width)
        recorded = self._table.get(key)
        if recorded is None:
            recorded = self._recorded(key, _widened(hidden, width), inputs, buffers)
            self._table.put(key, recorded)
        else:
            recorded.load(hidden, inputs)
        recorded.recording.replay()
        return _narrowed(recorded.recording.output, step.width)

    def _run(
        self, key: GraphKey, hidden: torch.Tensor, inputs: PassTensors, buffers: Sequence[KeyValues]
    ) -> LayersOutput:
        return self._step.run(hidden, inputs, buffers, key.first_row, key.layers[0], key.taps)

    def _recorded(
        self, key: GraphKey, hidden: torch.Tensor, inputs: PassTensors, buffers: Sequence[KeyValues]
    ) -> Recorded:
        with torch.inference_mode(False), torch.no_grad():  # the tensors are written again in any mode
            hidden, inputs = hidden.clone(), inputs.clone()
            return Recorded(hidden, inputs, self._record(lambda: self._run(key, hidden, inputs, buffers)))


def rounded_width(width: int) -> int | None:
    """The least recorded width that holds `width` tokens; None if there is none.

    >>> [rounded_width(width) for width in (1, 3, 16, 17)]
    [1, 4, 16, None]
    """
    return next((bucket for bucket in WIDTHS if bucket >= width), None)


def rounded_columns(columns: int, capacity: int) -> int:
    """Powers of two, as far as the buffers reach.

    >>> [rounded_columns(columns, capacity=1000) for columns in (16, 256, 272, 600)]
    [256, 256, 512, 1000]
    """
    rounded = _FIRST_COLUMNS
    while rounded < columns:
        rounded *= 2
    return min(rounded, capacity)


def cuda_recorder(device: torch.device) -> Recorder:
    """Records CUDA graphs that share one pool of memory, so that they must be replayed one after the other and their
    outputs copied before the next."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Recording:
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                work()  # libraries allocate what they need at first use, which a recording must not
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads may allocate meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                output = work()
        return Recording(output, graph.replay)

    return record


def _widened(hidden: torch.Tensor, width: int) -> torch.Tensor:  # [batch, any, hidden] -> [batch, width, hidden]
    return torch.nn.functional.pad(hidden, (0, 0, 0, width - hidden.shape[1]))


def _narrowed(output: LayersOutput, width: int) -> LayersOutput:
    """Copies, without the padding: a replay overwrites the original."""
    taps = {layer: states[:, :width].clone() for layer, states in output.taps.items()}
    return LayersOutput(output.hidden[:, :width].clone(), taps)
