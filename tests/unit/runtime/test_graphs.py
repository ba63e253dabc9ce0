"""Recordings are made when worth it, replayed on what is current, and dropped when the cache moves.

The recorder of these tests does its work again at every replay. That a replay says what a plain pass says is tested
with all other steps in test_step.py.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from evodraft.runtime import graphs
from evodraft.runtime.cache import KeyValues, SlotCache
from evodraft.runtime.eager_step import EagerStep
from evodraft.runtime.family import read_family
from evodraft.runtime.graphs import WIDTHS, GraphedStep, GraphKey, GraphTable, Recording, cuda_recorder
from evodraft.runtime.step import LayersOutput
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model

KEY = GraphKey(batch=1, width=1, columns=256, first_row=0, layers=(0, 2), taps=())


class Recorder:
    """Counts, and fills what it hands out only when it is replayed, as an accelerator does."""

    def __init__(self):
        self.num_recorded = self.num_replayed = 0

    def __call__(self, work):
        self.num_recorded += 1
        output = work()
        held = [output.hidden, *output.taps.values()]
        for states in held:
            states.fill_(torch.nan)

        def replay():
            self.num_replayed += 1
            again = work()
            for states, fresh in zip(held, [again.hidden, *again.taps.values()], strict=True):
                states.copy_(fresh)

        return Recording(output, replay)


class Bench:
    """One graphed step beside a plain one, each with a cache of its own; both get every pass."""

    def __init__(self, family="mistral", max_length=600, limit=64):
        model = tiny_model(family)
        self.plain = EagerStep(read_family(model, ModelFacts.of(model)))
        self.record = Recorder()
        self.graphed = GraphedStep(self.plain, self.record, limit)
        self.caches = [SlotCache(2, num_slots=3, max_length=max_length) for _ in range(2)]
        self.generator = torch.Generator().manual_seed(1)

    def run(self, widths, slots, *, parents=None, taps=(), layers=(0, 2)):
        width = max(widths)
        token_ids = torch.randint(0, 64, (len(slots), width), generator=self.generator)
        outputs = []
        for step, cache in zip((self.graphed, self.plain), self.caches, strict=True):
            plan = cache.plan(slots, widths, width, parents=parents, layers=range(*layers))
            cache.begin(plan)
            outputs.append(step.layers(step.embed(token_ids), cache, plan, *layers, taps))
            cache.commit(plan)
        self.assert_equal(*outputs, widths)
        return outputs[0]

    def assert_equal(self, graphed, plain, widths):
        assert set(graphed.taps) == set(plain.taps)
        for row, width in enumerate(widths):
            for layer in (None, *plain.taps):
                ours, theirs = ((out.hidden if layer is None else out.taps[layer]) for out in (graphed, plain))
                torch.testing.assert_close(ours[row, :width], theirs[row, :width], atol=1e-5, rtol=1e-5)

    def crop(self, slot, length):
        for cache in self.caches:
            cache.crop(slot, length)

    @property
    def counts(self):
        return self.record.num_recorded, self.record.num_replayed


@pytest.fixture
def bench():
    return Bench()


def test_the_second_time_is_recorded_and_every_later_one_replayed(bench):
    counts = []
    for _ in range(4):
        bench.run([1], [0])
        counts.append(bench.counts)
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_wide_passes_run_as_they_are(bench):
    for _ in range(3):
        output = bench.run([WIDTHS[-1] + 1], [0])
    assert bench.counts == (0, 0)
    assert output.hidden.shape[1] == WIDTHS[-1] + 1


def test_widths_share_a_recording_and_leave_nothing_of_each_other_behind(bench):
    bench.run([11, 9], [0, 1])
    for widths in [(3, 3), (4, 2), (3, 1), (4, 4), (3, 2)]:
        output = bench.run(widths, [0, 1])
        assert output.hidden.shape[1] == max(widths)
    assert bench.counts == (1, 4)
    keys = [cache.buffers(1, cache.plan([0, 1], [1, 1], 1), None).keys[:2, :, :20] for cache in bench.caches]
    torch.testing.assert_close(*keys, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", [(0, 1), (2, 0)])
def test_trees_and_chains_share_a_recording(bench, slots):
    bench.run([6, 3], slots)
    for _ in range(2):
        bench.run([4, 2], slots)
        bench.run([4, 3], slots, parents=[[-1, -1, 0, 1], [-1, 0, 0]])
        for slot, cache in [(slot, cache) for slot in slots for cache in bench.caches]:
            cache.select(slot, cache.length(slot) - (4 if slot == slots[0] else 3), [0, 2])
    assert bench.counts == (1, 3)


def test_every_shape_has_its_own_recording(bench):
    shapes = [
        {"widths": [1], "slots": [0]},
        {"widths": [2], "slots": [0]},
        {"widths": [1], "slots": [1]},  # another row
        {"widths": [1, 1], "slots": [0, 1]},
        {"widths": [1, 1], "slots": [1, 0]},  # gathered
        {"widths": [1], "slots": [0], "taps": (1,)},
        {"widths": [1], "slots": [0], "layers": (0, 1)},
    ]
    for slot in (0, 1):
        bench.run([16], [slot])
    before = bench.counts
    for _ in range(3):
        for shape in shapes:
            bench.run(**shape)
            bench.crop(0, 16)
            bench.crop(1, 16)
    recorded, replayed = (now - then for now, then in zip(bench.counts, before, strict=True))
    assert (recorded, replayed) == (len(shapes), 2 * len(shapes))


def test_gathered_rows_are_those_of_the_pass(bench):
    """Which rows a recording gathers is a tensor, not part of its key."""
    for slots in [(2, 0), (0, 2), (1, 0), (2, 1)]:
        bench.run([2, 1], slots)
    assert bench.counts == (1, 3)


def test_a_larger_cache_makes_recordings_again(bench):
    for _ in range(3):
        bench.run([1], [0])
    bench.run([16], [0])
    for _ in range(60):  # beyond the first 64 columns
        bench.run([1], [0])
    assert bench.record.num_recorded == 2


def test_longer_texts_need_another_recording():
    bench = Bench()
    bench.run([17], [0])
    bench.run([500], [0])  # buffers reach 512 columns now
    bench.crop(0, 250)
    for _ in range(12):
        bench.run([1], [0])
    assert bench.record.num_recorded == 2  # 256 columns, then 512
    assert bench.counts[1] == 12 - 2


def test_results_stay_when_the_recording_goes_on(bench):
    bench.run([1], [0], taps=(1,))
    output = bench.run([1], [0], taps=(1,))
    kept = output.hidden.clone(), output.taps[1].clone()
    bench.run([1], [0], taps=(1,))
    assert torch.equal(output.hidden, kept[0])
    assert torch.equal(output.taps[1], kept[1])


def test_recordings_made_in_inference_mode_serve_outside_of_it(bench):
    with torch.inference_mode():
        bench.run([2], [0])
        bench.run([2], [0])
    bench.run([2], [0])
    assert bench.counts == (1, 2)


def test_what_was_not_used_for_longest_is_dropped():
    bench = Bench(limit=2)
    for width, times in [(1, 2), (2, 2), (1, 1), (4, 2)]:
        for _ in range(times):
            bench.run([width], [0])
    assert bench.counts == (3, 4)
    bench.run([1], [0])
    assert bench.counts == (3, 5)
    bench.run([2], [0])  # dropped, so it counts as new
    assert bench.counts == (3, 5)


def buffers():
    return KeyValues(torch.zeros(1, 1, 65, 2), torch.zeros(1, 1, 65, 2))


def test_the_table_drops_all_when_one_layer_moves():
    first, second = buffers(), buffers()
    table = GraphTable(limit=4)
    table.expect(0, [first, second])
    assert not table.seen_before(KEY)
    table.put(KEY, "recorded")
    table.expect(1, [second])
    assert table.get(KEY) == "recorded"
    table.expect(0, [first, buffers()])
    assert table.get(KEY) is None
    assert len(table) == 0


def test_the_table_notices_another_length_at_the_same_place():
    before = buffers()
    table = GraphTable(limit=4)
    table.expect(0, [before])
    table.seen_before(KEY)
    table.expect(0, [KeyValues(before.keys[:, :, :33], before.values)])
    assert len(table) == 0


def test_the_table_keeps_no_buffer_alive():
    held = buffers()
    table, alive = GraphTable(limit=4), weakref.ref(held.keys)
    table.expect(0, [held])
    del held
    assert alive() is None


def test_the_order_of_a_capture(monkeypatch):
    """What torch asks for: a run on another stream first, then the capture, everything on the model's device."""
    events = []

    @contextmanager
    def entered(name, *arguments, **options):
        events.append((f"enter {name}", *arguments, *options.values()))
        yield
        events.append((f"leave {name}",))

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            events.append((f"{self.name} waits for {other.name}",))

    main = Stream("main")
    fake = SimpleNamespace(
        graph_pool_handle=lambda: "pool",
        device=lambda device: entered("device", str(device)),
        Stream=Stream,
        current_stream=lambda: main,
        stream=lambda stream: entered("stream"),
        CUDAGraph=lambda: SimpleNamespace(replay="replay"),
        graph=lambda graph, **options: entered("graph", **options),
    )
    monkeypatch.setattr(graphs.torch, "cuda", fake)
    output = LayersOutput(torch.zeros(1))

    def work():
        events.append(("work",))
        return output

    recording = cuda_recorder(torch.device("cuda:1"))(work)
    assert recording == (output, "replay")
    assert [" ".join(event) for event in events] == [
        "enter device cuda:1",
        "side waits for main",
        "enter stream",
        "work",
        "leave stream",
        "main waits for side",
        "enter graph pool thread_local",
        "work",
        "leave graph",
        "leave device",
    ]
