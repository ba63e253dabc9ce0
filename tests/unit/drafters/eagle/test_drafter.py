"""The EAGLE drafter: whatever was accepted and rejected before, its features are those of the head from scratch."""

from __future__ import annotations

import math

import pytest
import torch

from evodraft.drafters.base import CommittedRow, DraftRow, Growth
from evodraft.drafters.eagle.drafter import DRAFT_COLUMNS, EagleDrafter
from evodraft.drafters.eagle.step import choose_step
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.errors import CapacityError, ConfigError
from evodraft.runtime.choose import RuntimeOptions
from evodraft.sampling import raw_signals
from evodraft.target import Chunk
from evodraft.testing.conformance import check_drafter
from evodraft.testing.heads import tiny_head
from evodraft.testing.naive_head import naive_features, naive_logits
from evodraft.testing.tiny import tiny_model
from evodraft.types import ROOT, Update, Versions

VOCAB, HIDDEN = 24, 32
SLICE = (1, 2, 3, 5, 8, 13, 21)
RUNTIMES = ("native", "packed", "eager")
TOLERANCES = {torch.float32: 2e-4, torch.float64: 1e-10}


class World:
    """A head, what it shares with a target, and hidden states of that target as a function of the text."""

    def __init__(self, runtime="native", dtype=torch.float32, ids=None, vocab_size=VOCAB, **changes):
        model = tiny_model("llama", vocab_size=VOCAB, seed=3).to(dtype)
        self.dtype, self.ids, self.vocab_size = dtype, ids, vocab_size
        self.head = tiny_head(model, taps=(0, 1, 2), **changes)
        self.embedding = model.get_input_embeddings().weight.detach()
        self.matrix = model.get_output_embeddings().weight.detach()
        self.step = choose_step(self.head, RuntimeOptions(runtime))

    def drafter(self, num_slots=3, max_length=60, **changes) -> EagleDrafter:
        output = SlicedHead(self.matrix, None, self.ids, self.step.linear)
        options = {"step": self.step, "vocab_size": self.vocab_size, **changes}
        return EagleDrafter(self.head, self.embedding, output, num_slots, max_length, **options)

    def taps(self, text, start, end):
        """layer -> [end - start, HIDDEN]: depends on all tokens up to each."""
        columns = torch.arange(1, HIDDEN + 1, dtype=torch.float64)
        sums = torch.tensor([float(sum((i + 2) * t for i, t in enumerate(text[: at + 1]))) for at in range(start, end)])
        return {layer: torch.sin(sums[:, None] * columns / 7 + layer).to(self.dtype) for layer in (0, 1, 2)}

    def chunk(self, slot, text, start, end) -> Chunk:
        return Chunk(slot, start, tuple(text[start:end]), self.taps(text, start, end))

    def committed(self, slot, text, num_accepted) -> CommittedRow:
        """The text after a round that accepted so many; its last token is the target's own."""
        end = len(text) - 1
        return CommittedRow(slot, end, self.taps(text, end - num_accepted - 1, end))

    def expected(self, text, drafted=()):
        """Logits [columns] from scratch."""
        taps = self.taps(text, 0, len(text) - 1)
        features = naive_features(self.head, self.embedding, torch.cat([*taps.values()], dim=-1), text, drafted)
        logits = naive_logits(self.head, self.matrix, features)
        return logits if self.ids is None else logits[list(self.ids)]

    def close(self, found, expected):
        torch.testing.assert_close(found, expected, atol=TOLERANCES[self.dtype], rtol=0)

    def best(self, text, depth, rank=None):
        """The greedy chain from scratch."""
        drafted = []
        for _ in range(depth):
            column = int(self.expected(text, drafted).argmax())
            drafted.append(column if self.ids is None else self.ids[column])
        return tuple(drafted)


def text_of(generator, length):
    return torch.randint(VOCAB, (length,), generator=generator).tolist()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


WORLDS = {
    **{runtime: {"runtime": runtime} for runtime in RUNTIMES},
    "float64": {"runtime": "eager", "dtype": torch.float64},
    "normed residual": {"norm_before_residual": True},
    "normed residual, eager": {"norm_before_residual": True, "runtime": "eager"},
    "sliced": {"ids": SLICE},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 20},
}


@pytest.fixture(params=WORLDS)
def world(request) -> World:
    return World(**WORLDS[request.param])


# ---- features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_keeps_the_protocol(runtime):
    world = World(runtime)
    check_drafter(world.drafter, VOCAB, tap_size=HIDDEN, tolerance=2e-4)


def test_any_history_leaves_the_features_of_the_text(world, generator):
    """Three ragged rows through random rounds: drafts stepped or grown, as chains and trees; pauses; chunks; slots
    used again."""
    drafter = world.drafter()
    texts = [text_of(generator, length) for length in (9, 2, 5)]
    drafter.admit([world.chunk(slot, text, 0, len(text) // 2) for slot, text in enumerate(texts) if len(text) > 3])
    drafter.admit([world.chunk(s, t, len(t) // 2 if len(t) > 3 else 0, len(t) - 1) for s, t in enumerate(texts)])
    for number in range(14):
        slots = [slot for slot in (2, 0, 1) if (number + slot) % 4 != 3]  # the others pause
        rows = [DraftRow(slot, texts[slot]) for slot in slots]
        if number % 3 == 1:
            depth = 1 + number % 4
            grown = drafter.grow(rows, [Growth(depth, depth + 3 * (slot % 2)) for slot in slots], None, False)
            assert all(one.num_tokens for one in grown)
        else:
            for _ in range(1 + number % 3):
                step = drafter.step(rows)
                for row, logits in zip(rows, step.logits, strict=True):
                    world.close(logits, world.expected(row.committed, row.drafted))
                    row.drafted += text_of(generator, 1)
        commits = []
        for slot in range(3):
            drafted = next((row.drafted for row in rows if row.slot == slot), [])
            num_accepted = min(len(drafted), int(torch.randint(4, (), generator=generator)))
            texts[slot] = [*texts[slot], *drafted[:num_accepted], *text_of(generator, 1)]
            commits.append(world.committed(slot, texts[slot], num_accepted))
        drafter.commit(commits)
        if number == 8:
            drafter.release(1)
            texts[1] = text_of(generator, 4)
            drafter.admit([world.chunk(1, texts[1], 0, 3)])
    assert drafter.cache.length(0) < len(texts[0])


def test_bfloat16_comes_near(generator):
    text = text_of(generator, 12)
    exact = World()
    for runtime in RUNTIMES:
        world = World(runtime, torch.bfloat16)
        drafter = world.drafter()
        drafter.admit([world.chunk(0, text, 0, 11)])
        found = drafter.step([DraftRow(0, text)]).logits[0].float()
        assert (found - exact.expected(text)).abs().mean() < 0.1


def test_accepted_positions_are_computed_again_with_the_true_states(generator):
    """Else a draft of the head's own features would go on from its own features for ever."""
    world, text = World(), text_of(generator, 6)
    drafter = world.drafter()
    drafter.admit([world.chunk(0, text, 0, 5)])
    row = DraftRow(0, text)
    for _ in range(3):
        drafter.step([row])
        row.drafted += text_of(generator, 1)
    grown = [*text, *row.drafted, 7]
    drafter.commit([world.committed(0, grown, 3)])
    assert drafter.cache.length(0) == 5, "one true column for every token of the old text but the last"
    world.close(drafter.step([DraftRow(0, grown)]).logits[0], world.expected(grown))
    assert drafter.cache.length(0) == 9


# ---- what is not known -------------------------------------------------------------------------------------------


def test_a_prompt_of_one_token_is_offered_nothing_until_the_target_has_seen_it():
    world = World()
    drafter = world.drafter()
    assert drafter.step([DraftRow(0, [4])]).token_ids == (None,)
    assert drafter.grow([DraftRow(0, [4])], [Growth(3, 3)], None, False)[0].num_tokens == 0
    drafter.commit([world.committed(0, [4, 9], 0)])
    world.close(drafter.step([DraftRow(0, [4, 9])]).logits[0], world.expected([4, 9]))


@pytest.mark.parametrize("is_grown", [False, True])
def test_a_row_whose_features_were_never_shown_is_offered_nothing_and_others_are(is_grown, generator):
    world, (text, other) = World(), (text_of(generator, 6), text_of(generator, 8))
    drafter = world.drafter()
    drafter.admit([world.chunk(0, text, 0, 2), world.chunk(1, other, 0, 7)])
    drafter.admit([world.chunk(0, text, 3, 5)])  # token 2 was left out
    rows = [DraftRow(0, text), DraftRow(1, other)]
    if is_grown:
        grown = drafter.grow(rows, [Growth(2, 2), Growth(2, 5)], None, False)
        assert [one.num_tokens for one in grown] == [0, 5]
    else:
        step = drafter.step(rows)
        assert torch.isneginf(step.logits[0]).all()
        world.close(step.logits[1], world.expected(other))
    drafter.commit([world.committed(0, [*text, 1], 0)])
    assert drafter.step([DraftRow(0, [*text, 1])]).token_ids == (None,), "a hole is never filled"
    drafter.release(0)
    drafter.admit([world.chunk(0, text, 0, 5)])
    world.close(drafter.step([DraftRow(0, text)]).logits[0], world.expected(text))


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_a_round_that_was_taken_back_can_be_repeated(num_steps, generator):
    world, text = World(), text_of(generator, 7)
    drafter = world.drafter()
    drafter.admit([world.chunk(0, text, 0, 6)])
    row = DraftRow(0, text)
    for _ in range(num_steps):
        drafter.step([row])
        row.drafted += text_of(generator, 1)
    drafter.commit([CommittedRow(0, 6, {})])
    assert drafter.grow([DraftRow(0, text)], [Growth(3, 3)], None, False)[0].token_ids == world.best(text, 3)
    drafter.commit([CommittedRow(0, 6, {})])
    world.close(drafter.step([DraftRow(0, text)]).logits[0], world.expected(text))


def test_a_round_whose_commit_never_came_ends_the_drafting(generator):
    world, text = World(), text_of(generator, 7)
    drafter = world.drafter()
    drafter.admit([world.chunk(0, text, 0, 6)])
    drafter.step([DraftRow(0, text)])
    drafter.commit([CommittedRow(0, 9, {})])
    assert drafter.step([DraftRow(0, [*text, 1, 2, 3])]).token_ids == (None,)


def test_a_chunk_whose_pass_failed_is_caught_up_with(generator, monkeypatch):
    """Shown again or not, a chunk counts once."""
    world, text = World(), text_of(generator, 9)
    for shows_again in (True, False):
        drafter = world.drafter()

        def fail(*_):
            raise CapacityError("full")

        with monkeypatch.context() as patch:
            patch.setattr(world.step, "layer", fail)
            with pytest.raises(CapacityError):
                drafter.admit([world.chunk(0, text, 0, 4)])
        if shows_again:
            drafter.admit([world.chunk(0, text, 0, 4)])
        drafter.admit([world.chunk(0, text, 4, 8)])
        world.close(drafter.step([DraftRow(0, text)]).logits[0], world.expected(text))


def test_a_prompt_that_does_not_fit_is_left_out(generator):
    world, text = World(), text_of(generator, 12)
    drafter = world.drafter(max_length=10)
    assert drafter.max_length == 10
    drafter.admit([world.chunk(0, text, 0, 6)])
    drafter.admit([world.chunk(0, text, 6, 11)])
    assert drafter.cache.length(0) == 5
    assert drafter.step([DraftRow(0, text)]).token_ids == (None,)


# ---- vocabulary --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [20, 24, 30])
def test_columns_are_cut_or_filled_with_the_impossible(vocab_size, generator):
    """Tokens without an embedding are read as token 0."""
    world, text = World(vocab_size=vocab_size), text_of(generator, 5)
    drafter = world.drafter()
    drafter.admit([world.chunk(0, text, 0, 4)])
    logits = drafter.step([DraftRow(0, text)]).logits[0]
    known = min(vocab_size, VOCAB)
    assert logits.shape == (vocab_size,)
    world.close(logits[:known], world.expected(text)[:known])
    assert torch.isneginf(logits[known:]).all()
    found = drafter.step([DraftRow(0, text, [29])]).logits[0, :known]
    world.close(found, world.expected(text, [0])[:known])
    drafter.commit([CommittedRow(0, 4, {})])
    chain = drafter.grow([DraftRow(0, text)], [Growth(4, 4)], None, False)[0].token_ids
    assert max(chain) < known


def test_a_slice_names_its_columns(generator):
    world, text = World(ids=SLICE), text_of(generator, 5)
    drafter = world.drafter()
    drafter.admit([world.chunk(0, text, 0, 4)])
    step = drafter.step([DraftRow(0, text)])
    assert step.ids.tolist() == list(SLICE)
    assert step.logits.shape == (1, len(SLICE))


# ---- chains ------------------------------------------------------------------------------------------------------


def started(world, generator, lengths=(7, 3, 12)):
    drafter, texts = world.drafter(), [text_of(generator, length) for length in lengths]
    drafter.admit([world.chunk(slot, text, 0, len(text) - 1) for slot, text in enumerate(texts)])
    return drafter, [DraftRow(slot, text) for slot, text in enumerate(texts)]


@pytest.mark.parametrize("want_signals", [False, True])
def test_greedy_chains_are_those_of_steps(world, want_signals, generator):
    drafter, rows = started(world, generator)
    depths = [4, 1, 6]
    grown = drafter.grow(rows, [Growth(depth, depth) for depth in depths], None, want_signals)
    for row, depth, one in zip(rows, depths, grown, strict=True):
        assert one.is_chain
        assert one.token_ids == world.best(row.committed, depth)
        assert len(one.signals) == (depth if want_signals else 0)
        for place, signals in enumerate(one.signals):
            logits = world.expected(row.committed, one.token_ids[:place])[None]
            expected = raw_signals(logits, logits.argmax(dim=-1))[0]
            assert signals == pytest.approx(expected, abs=1e-4)
        assert row.drafted == []
        assert drafter.cache.length(row.slot) == len(row.committed) - 1
    for row, one in zip(rows, grown, strict=True):
        row.drafted.extend(one.token_ids[:1])
    for row, logits in zip(rows, drafter.step(rows).logits, strict=True):
        world.close(logits, world.expected(row.committed, row.drafted))


def test_a_chain_by_the_library_is_one_call_and_has_the_bits_of_steps(generator, monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        world = World(dtype=dtype, ids=SLICE)
        (drafter, rows), other = started(world, generator), world.drafter()
        other.admit([world.chunk(row.slot, row.committed, 0, len(row.committed) - 1) for row in rows])
        with monkeypatch.context() as patch:
            patch.setattr(world.step, "layer", None)
            found = drafter.grow(rows, [Growth(6, 6)] * 3, None, True)
        other.step(rows)
        other.commit([CommittedRow(row.slot, len(row.committed) - 1, {}) for row in rows])
        stepped = other.grow(rows, [Growth(6, 6)] * 3, None, True)
        assert [one.token_ids for one in found] == [one.token_ids for one in stepped]
        for one, two in zip(found, stepped, strict=True):
            for signals, expected in zip(one.signals, two.signals, strict=True):
                assert signals == pytest.approx(expected, abs=1e-5)
        for row, one in zip(rows, found, strict=True):
            row.drafted.extend(one.token_ids[:2])
        assert torch.equal(drafter.step(rows).logits, other.step(rows).logits)


@pytest.mark.parametrize("part", ["embedding of another type", "bias"])
def test_a_chain_that_the_library_cannot_draft_goes_by_steps(part, generator):
    world = World()
    bias = torch.linspace(-9.0, 9.0, VOCAB) if part == "bias" else None
    if bias is None:
        world.embedding = world.embedding.double()
    output = SlicedHead(world.matrix, bias, None, world.step.linear)
    drafter = EagleDrafter(world.head, world.embedding, output, 3, 60, step=world.step, vocab_size=VOCAB)
    text = text_of(generator, 8)
    drafter.admit([world.chunk(0, text, 0, 7)])
    world.embedding = world.embedding.float()
    found = drafter.grow([DraftRow(0, text)], [Growth(3, 3)], None, False)[0].token_ids
    for place, token_id in enumerate(found):
        logits = world.expected(text, found[:place])
        assert token_id == int((logits if bias is None else logits + bias).argmax())
    assert len(found) == 3


def test_what_is_copied_is_the_slice():
    assert World().drafter().copied_bytes == 0
    assert World(ids=SLICE).drafter().copied_bytes == len(SLICE) * HIDDEN * 4


def test_a_chain_of_rows_that_all_end_early_is_short(generator):
    world = World("eager")
    drafter, rows = started(world, generator)
    with torch.no_grad():
        world.matrix[:] = torch.nan
    assert [one.num_tokens for one in drafter.grow(rows, [Growth(4, 4)] * 3, None, True)] == [0, 0, 0]


@pytest.mark.parametrize("is_native", [True, False])
def test_a_chain_ends_where_logits_are_not_finite(is_native, generator):
    world = World("native" if is_native else "eager")
    drafter, rows = started(world, generator)
    whole = [world.best(row.committed, 4) for row in rows]
    poisoned = whole[0][1]
    with torch.no_grad():
        world.embedding[poisoned] = torch.nan
    grown = drafter.grow(rows, [Growth(4, 4)] * 3, None, True)
    for one, expected in zip(grown, whole, strict=True):
        end = next((place + 1 for place, token_id in enumerate(expected) if token_id == poisoned), 4)
        assert one.token_ids == expected[:end]
        assert len(one.signals) == end
        assert all(math.isfinite(number) for signals in one.signals for number in signals)


def test_a_chain_beside_a_slot_that_is_full_is_shortened(generator):
    world = World()
    drafter = world.drafter(max_length=20)
    texts = [text_of(generator, 20), text_of(generator, 3)]
    drafter.admit([world.chunk(slot, text, 0, len(text) - 1) for slot, text in enumerate(texts)])
    rows = [DraftRow(slot, text) for slot, text in enumerate(texts)]
    grown = drafter.grow(rows, [Growth(1, 1), Growth(1000, 1000)], None, False)
    assert [one.num_tokens for one in grown] == [1, DRAFT_COLUMNS + 2]


def test_ranks_choose_instead_of_logits(world, generator):
    """A rank is asked with raw logits, their ids and where the nodes stand, and turned upside down here."""
    drafter, rows = started(world, generator)
    seen = []

    def rank(logits, ids, places):
        seen.extend(places)
        assert (ids is None) == (world.ids is None)
        return -logits.float()

    grown = drafter.grow(rows, [Growth(2, 2), Growth(3, 3), Growth(0, 0)], rank, False)
    for row, one in zip(rows[:2], grown, strict=False):
        for place, token_id in enumerate(one.token_ids):
            column = int(world.expected(row.committed, one.token_ids[:place]).argmin())
            assert token_id == (column if world.ids is None else world.ids[column])
    assert [one.num_tokens for one in grown] == [2, 3, 0]
    assert seen == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]


# ---- trees -------------------------------------------------------------------------------------------------------


def naive_tree(world, text, growth, branching=8):
    """All nodes that a full search reaches, and the best of them: path -> value."""
    values, level = {}, {(): 0.0}
    for _ in range(growth.depth):
        found = {}
        for path, value in level.items():
            law = world.expected(text, path).log_softmax(dim=-1)
            for weight, column in zip(*law.topk(min(branching, len(law))), strict=True):
                token_id = int(column) if world.ids is None else world.ids[int(column)]
                found[(*path, token_id)] = value + float(weight)
        values |= found
        best = sorted(values, key=values.get, reverse=True)[: growth.num_nodes]
        level = {path: found[path] for path in sorted(found, key=found.get, reverse=True)[:branching] if path in best}
    return {path: values[path] for path in sorted(values, key=values.get, reverse=True)[: growth.num_nodes]}


def paths_of(grown):
    paths = {ROOT: ()}
    for node, (token_id, parent) in enumerate(zip(grown.token_ids, grown.parents, strict=True)):
        paths[node] = (*paths[parent], token_id)
    return {path for node, path in paths.items() if node != ROOT}


def test_trees_hold_the_best_nodes(world, generator):
    drafter, rows = started(world, generator)
    growths = [Growth(3, 12), Growth(2, 2), Growth(5, 9)]
    grown = drafter.grow(rows, growths, None, True)
    for row, growth, one in zip(rows, growths, grown, strict=True):
        assert paths_of(one) == set(naive_tree(world, row.committed, growth)) if growth.depth > 2 else one.is_chain
        assert one.num_tokens == growth.num_nodes
        assert one.depth <= growth.depth
        assert len(one.signals) == one.num_tokens
        assert drafter.cache.length(row.slot) == len(row.committed) - 1, "the tree is forgotten"
    for row, logits in zip(rows, drafter.step(rows).logits, strict=True):
        world.close(logits, world.expected(row.committed))


def test_signals_of_a_tree_are_those_of_each_nodes_law(generator):
    world = World()
    drafter, rows = started(world, generator)
    one = drafter.grow(rows[:1], [Growth(3, 10)], None, True)[0]
    paths = {ROOT: ()}
    for node, (token_id, parent) in enumerate(zip(one.token_ids, one.parents, strict=True)):
        logits = world.expected(rows[0].committed, paths[parent])[None]
        assert one.signals[node] == pytest.approx(raw_signals(logits, torch.tensor([token_id]))[0], abs=1e-4)
        paths[node] = (*paths[parent], token_id)


def test_a_tree_that_does_not_fit_stops_growing(generator, monkeypatch):
    world = World()
    monkeypatch.setattr("evodraft.drafters.eagle.drafter.DRAFT_COLUMNS", 1)
    text = text_of(generator, 20)
    drafter = world.drafter(max_length=20)
    drafter.admit([world.chunk(0, text, 0, 19)])
    grown = drafter.grow([DraftRow(0, text)], [Growth(4, 30)], None, False)[0]
    assert (grown.num_tokens, grown.depth) == (8, 1)


# ---- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("part", ["fc", "midlayer.hidden_norm", "midlayer.mlp.down_proj", "norm"])
def test_an_update_is_taken_over_between_rounds(runtime, part, generator):
    world, text = World(runtime), text_of(generator, 8)

    def load(factor):
        with torch.no_grad():
            world.head.get_parameter(f"{part}.weight").mul_(factor)

    drafter = world.drafter(load=load)
    before = world.expected(text)
    drafter.apply(Update(Versions(3, 1), 1.5))
    assert drafter.versions == (3, 1)
    drafter.admit([world.chunk(0, text, 0, 7)])
    world.close(drafter.step([DraftRow(0, text)]).logits[0], world.expected(text))
    assert not torch.allclose(before, world.expected(text), atol=1e-2)


def test_weights_that_somebody_wrote_to_are_taken_over_at_the_start_of_a_text(generator):
    world, text = World("packed", ids=SLICE), text_of(generator, 8)
    drafter = world.drafter()
    with torch.no_grad():
        world.head.fc.weight.mul_(0.5)
        world.matrix.mul_(2.0)
    drafter.admit([world.chunk(0, text, 0, 7)])
    world.close(drafter.step([DraftRow(0, text)]).logits[0], world.expected(text))


def test_fixed_weights_refuse_updates():
    with pytest.raises(ConfigError, match="fixed weights; build its drafter with `load=`"):
        World().drafter().apply(Update(Versions(1, 0), None))


# ---- one call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [None, SLICE])
def test_single_calls_have_the_bits_of_their_parts(dtype, ids, generator, monkeypatch):
    """Rows that catch up beside rows that go on, whatever the number of threads."""
    world, before = World(dtype=dtype, ids=ids), torch.get_num_threads()
    texts = [text_of(generator, length) for length in (9, 4, 6)]
    drafted = [text_of(generator, 2) for _ in texts]

    def offers():
        drafter = world.drafter()
        drafter.admit([world.chunk(slot, text, 0, len(text) - 1) for slot, text in enumerate(texts)])
        rows = [DraftRow(slot, text) for slot, text in enumerate(texts)]
        found = [drafter.step(rows[:2]).logits]
        for row, token_ids in zip(rows[:2], drafted, strict=False):
            row.drafted.append(token_ids[0])
        found.append(drafter.step(rows).logits)
        drafter.commit([world.committed(0, [*texts[0], drafted[0][0], 3], 1)])
        return [*found, drafter.step([DraftRow(0, [*texts[0], drafted[0][0], 3])]).logits]

    with monkeypatch.context() as patch:
        patch.setattr("evodraft.drafters.eagle.drafter.native_weights", lambda _: None)
        expected = offers()
    monkeypatch.setattr(world.step, "norm", None)  # only the parts need it
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            assert all(torch.equal(*pair) for pair in zip(offers(), expected, strict=True))
    finally:
        torch.set_num_threads(before)
