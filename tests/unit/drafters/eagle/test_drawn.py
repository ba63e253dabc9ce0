"""Chains that the library draws: token by token those of steps, with the laws and the noise of the engine."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from evodraft.drafters.base import CommittedRow, DraftRow, Drawn, Draws, Growth
from evodraft.drafters.eagle.drafter import DRAFT_COLUMNS, EagleDrafter
from evodraft.drafters.eagle.step import choose_step
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.params import LawParams
from evodraft.runtime.choose import RuntimeOptions
from evodraft.runtime.native.problem import native_problem
from evodraft.sampling import HashedStream, NoiseKey, to_law
from evodraft.target import Chunk
from evodraft.testing.fit import chi_square_p_value
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model

pytestmark = pytest.mark.skipif(native_problem(torch.zeros(1)) is not None, reason="nothing can be compiled here")

VOCAB, HIDDEN, DEPTH = 600, 32, 5
SLICE = tuple(range(1, VOCAB, 3))
STREAM = HashedStream()
TEXTS = ((5, 9, 2, 7, 1), (3, 8), (4, 4, 6, 11, 12, 13, 0, 2))
KINDS = {
    "whole": {},
    "sliced": {"ids": SLICE},
    "bfloat16": {"dtype": torch.bfloat16},
    "more ids than rows": {"vocab_size": VOCAB + 7},
    "fewer ids than rows": {"vocab_size": VOCAB - 9},
}


def taps_of(text, dtype):
    columns = torch.arange(1, HIDDEN + 1, dtype=torch.float64)
    sums = torch.tensor([float(sum((i + 2) * t for i, t in enumerate(text[: at + 1]))) for at in range(len(text) - 1)])
    return {layer: torch.sin(sums[:, None] * columns / 7 + layer).to(dtype) for layer in (0, 1, 2)}


def drafter_of(runtime="native", ids=None, dtype=torch.float32, vocab_size=VOCAB, scale=1.0, max_length=60):
    model = tiny_model("llama", vocab_size=VOCAB, seed=3).to(dtype)
    head = tiny_head(model, taps=(0, 1, 2))
    step = choose_step(head, RuntimeOptions(runtime))
    matrix = model.get_output_embeddings().weight.detach() * scale
    embedding = model.get_input_embeddings().weight.detach()
    output = SlicedHead(matrix, None, ids, step.linear)
    return EagleDrafter(head, embedding, output, len(TEXTS), max_length, step=step, vocab_size=vocab_size)


def begun(drafter: EagleDrafter, texts=TEXTS) -> list[DraftRow]:
    dtype = drafter.head.fc.weight.dtype
    drafter.admit([Chunk(slot, 0, tuple(text[:-1]), taps_of(text, dtype)) for slot, text in enumerate(texts)])
    return [DraftRow(slot, text) for slot, text in enumerate(texts)]


def taken_back(drafter: EagleDrafter, rows) -> None:
    drafter.commit([CommittedRow(row.slot, len(row.committed) - 1, {}) for row in rows])


def keys_of(seed: int, count: int = DEPTH) -> list[NoiseKey]:
    return [NoiseKey(seed, 0, "draft", number) for number in range(count)]


def draws_of(keys, temperature=1.0) -> Draws:
    return Draws(temperature, tuple(STREAM.key_words(keys)))


def stepped(drafter: EagleDrafter, row: DraftRow, keys, temperature: float) -> Drawn:
    """As the engine draws."""
    drafted = DraftRow(row.slot, row.committed)
    laws = []
    for key in keys:
        step = drafter.step([drafted])
        laws.append(to_law(step.logits, LawParams(temperature)))
        column = int(STREAM.draw(laws[-1], [key], step.ids)[0])
        drafted.drafted.append(column if step.ids is None else int(step.ids[column]))
    taken_back(drafter, [row])
    return Drawn(tuple(drafted.drafted), torch.cat(laws), step.ids)


@pytest.mark.parametrize("temperature", [1e-40, 0.05, 0.7, 1.0, 3.0, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_laws_are_those_of_steps(kind, temperature):
    """Rows of a batch, each with noise of its own, against each of them alone; then the next round again."""
    drafter, other = drafter_of(**KINDS[kind]), drafter_of(**KINDS[kind])
    rows = begun(drafter)
    begun(other)
    for seed in (1, 5):
        keys = [keys_of(seed + row.slot) for row in rows]
        found = drafter.draw(rows, [draws_of(one, temperature) for one in keys])
        taken_back(drafter, rows)
        for slot in range(len(rows)):  # what was left in the head's first pass is not there any more
            drafter.release(slot)
        begun(drafter)
        for row, one, row_keys in zip(rows, found, keys, strict=True):
            wanted = stepped(other, row, row_keys, temperature)
            assert one.token_ids == wanted.token_ids
            torch.testing.assert_close(one.q, wanted.q, atol=1e-6, rtol=1e-4)
            assert (one.ids is None) == (wanted.ids is None)
            assert torch.equal(one.q > 1e-30, wanted.q > 1e-30)
            torch.testing.assert_close(one.q.sum(dim=-1), torch.ones(DEPTH), atol=1e-5, rtol=0)


def test_thousands_of_draws_are_those_of_steps():
    """And they are distributed as q says."""
    drafter, other = drafter_of(ids=SLICE, scale=3.0), drafter_of(ids=SLICE, scale=3.0)
    (row, *_), _ = begun(drafter), begun(other)
    law = to_law(other.step([row]).logits, LawParams(0.9))[0]
    counts: Counter[int] = Counter()
    for start in range(0, 4000, 20):
        keys = keys_of(start, 20)
        (found,) = drafter.draw([row], [draws_of(keys, 0.9)])
        taken_back(drafter, [row])
        drafter.release(row.slot)
        begun(drafter)
        columns = STREAM.draw(found.q, keys, found.ids)
        assert found.token_ids == tuple(found.ids[columns].tolist())
        counts[found.token_ids[0]] += 1
        assert torch.allclose(found.q[0], law, atol=1e-6)
    for start in range(3800):
        (found,) = drafter.draw([row], [draws_of(keys_of(10_000 + start, 1), 0.9)])
        drafter.release(row.slot)
        begun(drafter)
        counts[found.token_ids[0]] += 1
    assert len(counts) > 20
    expected = dict(zip(SLICE, law.double().div(law.double().sum()).tolist(), strict=True))
    assert chi_square_p_value(counts, expected) > 1e-3


def test_each_row_has_its_own_depth_and_temperature():
    drafter, other = drafter_of(), drafter_of()
    rows, _ = begun(drafter), begun(other)
    keys = [keys_of(row.slot, 1 + 2 * row.slot) for row in rows]
    found = drafter.draw(rows, [draws_of(one, 0.4 + row.slot) for row, one in zip(rows, keys, strict=True)])
    for row, one, row_keys in zip(rows, found, keys, strict=True):
        assert one.token_ids == stepped(other, row, row_keys, 0.4 + row.slot).token_ids
        assert one.q.shape == (len(row_keys), VOCAB)
        assert row.drafted == []
        assert drafter.cache.length(row.slot) == len(row.committed) - 1


def test_a_row_that_is_not_just_behind_is_left_out():
    drafter = drafter_of()
    rows = begun(drafter)
    drafter.step(rows[:1])
    taken_back(drafter, rows[:1])
    drafter.release(1)
    found = drafter.draw(rows, [draws_of(keys_of(7))] * 3)
    assert [None if one is None else len(one.token_ids) for one in found] == [None, None, DEPTH]
    assert drafter.draw(rows[:1], [draws_of(keys_of(7))]) == [None]
    assert drafter.grow(rows[:1], [Growth(2, 2)], None, False)[0].num_tokens == 2


def test_a_chain_ends_where_logits_are_not_finite():
    drafter, other = drafter_of(), drafter_of()
    rows, _ = begun(drafter), begun(other)
    keys = keys_of(2)
    wanted = stepped(other, rows[0], keys, 1.0)
    with torch.no_grad():
        drafter._weights.embedding[wanted.token_ids[1]] = torch.nan
    (found,) = drafter.draw(rows[:1], [draws_of(keys)])
    assert found.token_ids == wanted.token_ids[:2]
    assert torch.isfinite(found.q).all()
    assert found.q.shape == (2, VOCAB)


def test_a_chain_is_as_long_as_its_slot():
    drafter = drafter_of(max_length=8)
    rows = begun(drafter)
    (found,) = drafter.draw(rows[2:], [draws_of(keys_of(3, 400))])
    assert len(found.token_ids) == len(found.q) == DRAFT_COLUMNS + 2


@pytest.mark.parametrize("runtime", ["packed", "eager"])
def test_nothing_else_draws(runtime):
    assert drafter_of(runtime).draw is None
