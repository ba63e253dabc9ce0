"""Known ways to be wrong with trees and slices. Each is built on purpose, and the engine's enumeration must see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from evodraft import drafting, sampling
from evodraft.drafters import ModelDrafter
from evodraft.drafting import DraftRound
from evodraft.params import SamplingParams
from evodraft.runtime import masks
from evodraft.runtime.hf import HfDecoder
from evodraft.target import Scored, Target
from evodraft.testing import (
    EnumeratingStream,
    ScriptedController,
    TableDecoder,
    TableLM,
    check_decoder,
    enumerate_outcomes,
    outputs,
    plain_law,
    product_law,
    table_engine,
)
from evodraft.testing.slices import SlicedDrafter
from evodraft.testing.tiny import tiny_model
from evodraft.testing.trees import TreeDrafter
from evodraft.types import ROOT, Draft, Plan, Request

TARGET = TableLM.random(4, order=2, seed=41)
DRAFT = TableLM.random(4, order=2, seed=42)
TREE = Plan(width=3, num_nodes=8)
WIDE = (ROOT, ROOT, ROOT, 0, 1)


def request(num_tokens: int) -> Request:
    return Request("a", (1, 2, 3), SamplingParams(max_new_tokens=num_tokens, temperature=1.0), seed=1)


def model() -> ModelDrafter:
    return ModelDrafter(TableDecoder(DRAFT), 4)


def grown(*parents: int) -> TreeDrafter:
    return TreeDrafter(model(), lambda context, growth: parents if growth.depth > 1 else parents[:3])


def is_exact(drafter_of: Callable, plan: Plan | int = TREE, num_tokens: int = 3) -> bool:
    def run(stream: EnumeratingStream):
        engine = table_engine(TARGET, drafter_of(), ScriptedController([plan]), stream=stream)
        return outputs(engine, [request(num_tokens)])

    return enumerate_outcomes(run) == product_law(plain_law(TARGET, lambda: request(num_tokens)))


def tree_drafter() -> TreeDrafter:
    return grown(*WIDE)


def sliced() -> SlicedDrafter:
    return SlicedDrafter(model(), [0, 2])


def test_nothing_broken_is_exact() -> None:
    assert is_exact(tree_drafter)
    assert is_exact(sliced, 2)


# --- siblings -----------------------------------------------------------------------------------------------------


def test_a_residual_that_forgets_the_sibling_before(monkeypatch) -> None:
    """Every sibling is judged by p itself."""
    monkeypatch.setattr(
        "evodraft.verifiers.rejection.residual", lambda weights, q: sampling.Residual(weights.clone(), False)
    )
    assert not is_exact(tree_drafter)


def test_a_residual_that_keeps_its_total(monkeypatch) -> None:
    """What siblings left is compared with a whole q, as if nothing had been taken away."""
    monkeypatch.setattr(torch.Tensor, "sum", _sum_of_one(torch.Tensor.sum))
    assert not is_exact(tree_drafter)


def _sum_of_one(original: Callable) -> Callable:
    def sum_(self, *args, **options):
        is_of_weights = not args and not options and self.dtype == torch.float64 and self.ndim == 1
        return torch.tensor(1.0) if is_of_weights else original(self, *args, **options)

    return sum_


@pytest.mark.parametrize("is_pruned", [True, False])
def test_drawn_siblings_of_which_the_likelier_is_kept(monkeypatch, is_pruned) -> None:
    """Nodes are drawn from q, and the one with the smaller q is thrown away; q stays as it was (X2)."""

    def draw(self: DraftRound, sessions, plans):
        law = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
        drafts = []
        for session, plan in zip(sessions, plans, strict=True):
            keys = [session.keys.next("draft") for _ in range(2 * (plan.width > 0))]
            token_ids = [int(self.stream.draw(law[None], [key])[0]) for key in keys]
            if is_pruned:
                token_ids = sorted(token_ids, key=lambda token_id: -float(law[token_id]))[:1]
            q = torch.stack([law] * len(token_ids)) if token_ids else None
            drafts.append(Draft(tuple(token_ids), (ROOT,) * len(token_ids), q))
        return drafts

    monkeypatch.setattr(DraftRound, "draw", draw)
    assert is_exact(tree_drafter) is not is_pruned


def test_softmax_as_q_of_grown_nodes(monkeypatch) -> None:
    """Nodes were chosen, and are judged as if they had been drawn (X1)."""

    def draw(self, sessions, plans):
        law = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
        return [
            dataclasses.replace(draft, q=torch.stack([law] * draft.num_tokens) if draft.num_tokens else None)
            for draft in original(self, sessions, plans)
        ]

    original = DraftRound.draw
    monkeypatch.setattr(DraftRound, "draw", draw)
    assert not is_exact(tree_drafter)


# --- the cache ----------------------------------------------------------------------------------------------------


def test_select_left_out(monkeypatch) -> None:
    """The double refuses to read a tree as text; where it is made to, the law is wrong."""
    monkeypatch.setattr(Target, "follow", lambda self, session, scored, path: None)
    monkeypatch.setattr("evodraft.testing.table.TableDecoder._assert_single_path", lambda self, slot: None)
    assert not is_exact(tree_drafter)


def test_select_left_out_is_an_assertion(monkeypatch) -> None:
    monkeypatch.setattr(Target, "follow", lambda self, session, scored, path: None)
    with pytest.raises(AssertionError, match="holds a tree"):
        is_exact(tree_drafter, num_tokens=6)


def test_the_wrong_path_is_kept(monkeypatch) -> None:
    """As many nodes as were accepted, but the first ones of the tree."""

    def follow(self, session, scored: Scored, path):
        if scored.is_tree:
            self.decoder.crop(session.slot, session.num_cached + 1 + len(path))
            self.decoder._appended.pop(session.slot, None)

    monkeypatch.setattr(Target, "follow", follow)
    assert not is_exact(tree_drafter)


def test_taps_of_the_wrong_path(monkeypatch) -> None:
    """A drafter that feeds on hidden states would be fed with those of other nodes; here they spell the law."""
    assert _taps_are_those_of_the_text()
    monkeypatch.setattr(
        Scored, "taps_of", lambda self, path: {layer: rows[: len(path) + 1] for layer, rows in self.taps.items()}
    )
    assert not _taps_are_those_of_the_text()


def _taps_are_those_of_the_text() -> bool:
    drafter = tree_drafter()
    drafter.needs = dataclasses.replace(drafter.needs, taps=(0,))
    commits = []
    original = drafter.commit
    drafter.commit = lambda rows: (commits.extend(rows), original(rows))
    engine = table_engine(TARGET, drafter, ScriptedController([TREE]))
    (tokens,) = outputs(engine, [request(24)])
    text = [1, 2, 3, *tokens]
    agreed = []
    for row in commits:
        if 0 not in row.taps:
            continue
        start = row.num_confirmed - len(row.taps[0])  # position of the root
        laws = torch.stack([TARGET.law(text[: position + 1]) for position in range(start, row.num_confirmed)])
        agreed.append(torch.allclose(row.taps[0], laws.float()))
    assert len(agreed) > 5
    return all(agreed)


def test_positions_by_the_order_of_nodes(monkeypatch) -> None:
    """A node stands where its depth says, not where its column is."""

    def check() -> None:
        model = tiny_model("llama", vocab_size=32)
        check_decoder(lambda num_slots, max_length: HfDecoder(model, num_slots, max_length, self_check=False))

    check()
    monkeypatch.setattr(masks, "depths", lambda parents: list(range(len(parents))))
    with pytest.raises(AssertionError):
        check()


# --- slices -------------------------------------------------------------------------------------------------------


def test_q_that_is_not_normalised_in_the_slice(monkeypatch) -> None:
    """The mass that the whole head would have given to the slice."""

    def part_of_the_whole(token_ids, laws, vocab_size):
        q = original(token_ids, laws, vocab_size)
        return None if q is None else q * 0.5

    original = drafting._full_laws
    monkeypatch.setattr(drafting, "_full_laws", part_of_the_whole)
    assert not is_exact(sliced, 2)


def test_a_duplicate_id_in_the_map_of_rows() -> None:
    """Two columns stand for one id; writing both leaves the mass of one."""

    def duplicate() -> SlicedDrafter:
        drafter = SlicedDrafter(model(), [0, 2, 3])
        step = drafter.step

        def step_with_duplicate(rows):
            return dataclasses.replace(step(rows), ids=torch.tensor([0, 2, 2]))

        drafter.step = step_with_duplicate
        return drafter

    assert not is_exact(duplicate, 2)


def test_columns_taken_for_ids(monkeypatch) -> None:
    """The draw says a column, and the token of that number is drafted."""

    class Forgetful(SlicedDrafter):
        def step(self, rows):
            step = super().step(rows)
            wide = torch.full((len(rows), 4), -torch.inf, dtype=torch.float64)
            wide[:, : len(self.ids)] = step.logits
            return dataclasses.replace(step, logits=wide, ids=None)

    assert is_exact(lambda: Forgetful(model(), [0, 2]), 2)  # another drafter, and an honest one

    def shifted(token_ids, laws, vocab_size):
        q = original(token_ids, laws, vocab_size)
        return None if q is None else q.roll(1, dims=-1)

    original = drafting._full_laws
    monkeypatch.setattr(drafting, "_full_laws", shifted)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        assert is_exact(sliced, 2)
