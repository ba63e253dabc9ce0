"""The target: chunks of prompts, scores of a ragged batch, sound numbers only."""

from __future__ import annotations

import math

import pytest
import torch

from evodraft.errors import NumericsError
from evodraft.params import SamplingParams
from evodraft.processors import EagerLaws, GreedyLaws, LazyLaws
from evodraft.sampling import to_law
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import TableDecoder, TableLM
from evodraft.types import ROOT, Draft, Request

TABLE = TableLM.random(4, order=2, seed=1)


def session(slot: int = 0, prompt=(1, 2, 3), **more) -> Session:
    options = {key: more.pop(key) for key in list(more) if key != "stop_token_ids" and hasattr(SamplingParams(), key)}
    made = Session(Request(f"request {slot}", prompt, SamplingParams(**options), seed=0, **more))
    made.slot = slot
    return made


def prefilled(target: Target, *sessions: Session) -> None:
    target.prefill(sessions, [item.num_to_prefill for item in sessions])


class Poisoned(TableDecoder):
    """Returns a fixed number for one id after one token."""

    def __init__(self, after: int, value: float) -> None:
        super().__init__(TABLE)
        self.after = after
        self.value = value

    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        if output.logits is not None:
            output.logits[token_ids == self.after] = self.value
        return output


def test_prefill_feeds_the_next_tokens_of_each_prompt() -> None:
    target = Target(TableDecoder(TABLE), taps=[0, 1])
    first, second = session(0, (1, 2, 3, 0, 1)), session(3, (2, 2))
    chunks = target.prefill([first, second], [2, 1])
    assert [(chunk.slot, chunk.start, chunk.token_ids) for chunk in chunks] == [(0, 0, (1, 2)), (3, 0, (2,))]
    assert (first.num_prefilled, second.num_prefilled) == (2, 1)
    assert {layer: tuple(hidden.shape) for layer, hidden in chunks[1].taps.items()} == {0: (1, 4), 1: (1, 4)}
    (chunk,) = target.prefill([first], [2])
    assert (chunk.start, chunk.token_ids) == (2, (3, 0))
    assert first.num_to_prefill == 0
    assert target.decoder.length(0) == 4


def test_scores_of_a_ragged_batch_are_those_of_each_row_alone() -> None:
    target = Target(TableDecoder(TABLE))
    rows = [session(0, temperature=1.0), session(1, (2,), temperature=0.5), session(2, (0, 1, 1, 1, 3))]
    prefilled(target, rows[0], rows[2])
    drafts = [Draft.chain([0, 1]), Draft.chain([]), Draft.chain([3, 2, 1])]
    for item, draft, scored in zip(rows, drafts, target.score(rows, drafts), strict=True):
        assert isinstance(scored.asked.laws, (EagerLaws, GreedyLaws))
        assert not scored.scores.ends
        assert scored.scores.logits.shape == (draft.num_tokens + 1, 4)
        for node in range(ROOT, draft.num_tokens):
            context = [*item.token_ids, *draft.token_ids[: node + 1]]
            wanted = to_law(TABLE.law(context).log(), item.request.params.law)
            assert torch.allclose(scored.scores.laws.at(node, draft.token_ids[: node + 1]), wanted, atol=1e-12)


def test_requests_with_processors_get_lazy_laws() -> None:
    target = Target(TableDecoder(TABLE))
    item = session(0, temperature=1.0, logits_processors=(lambda ids, scores: scores * 2,))
    prefilled(target, item)
    (scored,) = target.score([item], [Draft.chain([1])])
    assert isinstance(scored.asked.laws, LazyLaws)
    law = scored.scores.laws.at(0, [1])
    assert torch.allclose(law, (TABLE.law([3, 1]).log() * 2).softmax(-1))


def test_taps_of_root_and_nodes() -> None:
    target = Target(TableDecoder(TABLE), taps=[1])
    rows = [session(0, (1,)), session(1, (2,))]
    scored = target.score(rows, [Draft.chain([0, 3]), Draft.chain([])])
    assert [tuple(item.taps[1].shape) for item in scored] == [(3, 4), (1, 4)]


@pytest.mark.parametrize("ending", [2, 0])
def test_nothing_is_scored_after_a_stop_token(ending) -> None:
    target = Target(TableDecoder(TABLE))
    item = session(0, (1,), stop_token_ids=frozenset({2}))
    (scored,) = target.score([item], [Draft.chain([0, ending])])
    assert scored.scores.ends == ({1} if ending == 2 else set())
    assert scored.scores.logits.shape[0] == 3


def test_a_stop_token_before_the_minimum_has_a_next_one() -> None:
    target = Target(TableDecoder(TABLE))
    item = session(0, (1,), stop_token_ids=frozenset({2}), min_new_tokens=2)
    (scored,) = target.score([item], [Draft.chain([0, 2])])
    assert not scored.scores.ends


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_unusable_logits_fail_their_row_only(value) -> None:
    target = Target(Poisoned(after=3, value=value))
    rows = [session(0, (1,)), session(1, (2,)), session(2, (1, 1))]
    prefilled(target, rows[2])
    scored = target.score(rows, [Draft.chain([2, 3]), Draft.chain([2, 1]), Draft.chain([])])
    laws = [item.scores.laws for item in scored]
    for node, path in ((ROOT, []), (0, [2])):
        assert laws[0].at(node, path).isfinite().all()
        assert laws[1].at(node, path).isfinite().all()
    with pytest.raises(NumericsError) as raised:
        laws[0].at(1, [2, 3])
    assert "position 3 of request request 0" in str(raised.value)
    assert "load it with dtype='float32'" in str(raised.value)
    assert laws[1].at(1, [2, 1]).isfinite().all()
    assert laws[2].at(ROOT, []).isfinite().all()
    assert (scored[0].asked.node, scored[0].asked.path) == (1, (2, 3))


def test_padding_is_not_judged() -> None:
    """Columns past a row's width are noise, whatever stands there."""
    target = Target(Poisoned(after=0, value=math.nan))
    scored = target.score([session(0, (1,)), session(1, (2,))], [Draft.chain([1, 1]), Draft.chain([])])
    assert all(item.scores.laws.at(ROOT, []).isfinite().all() for item in scored)


def test_a_stop_token_may_be_followed_by_anything() -> None:
    target = Target(Poisoned(after=3, value=math.nan))
    item = session(0, (1,), stop_token_ids=frozenset({3}))
    (scored,) = target.score([item], [Draft.chain([2, 3])])
    assert scored.scores.laws.at(0, [2]).isfinite().all()
    assert scored.scores.ends == {1}


@pytest.mark.parametrize(("vocab_size", "wanted"), [(None, 4), (3, 3), (9, 4)])
def test_columns_beyond_the_vocabulary_are_cut_off(vocab_size, wanted) -> None:
    target = Target(TableDecoder(TABLE), vocab_size)
    assert target.vocab_size == wanted
    (scored,) = target.score([session(0, (1,), temperature=1.0)], [Draft.chain([])])
    assert scored.scores.logits.shape == (1, wanted)
    assert scored.scores.laws.at(ROOT, []).sum().item() == pytest.approx(1.0)


def test_keep_and_release() -> None:
    target = Target(TableDecoder(TABLE))
    item = session(2, (1, 2))
    prefilled(target, item)
    target.score([item], [Draft.chain([0, 0, 0])])
    item.token_ids += [0, 3]
    target.keep(item)
    assert target.decoder.length(2) == 3
    target.release(2)
    assert target.decoder.length(2) == 0


# --- trees --------------------------------------------------------------------------------------------------------

TREE = Draft((0, 3, 1, 2, 2), (ROOT, ROOT, 0, 1, 2), None)


def test_a_tree_beside_a_chain_and_nothing() -> None:
    """Every node follows its own path, whatever stands before it in the row."""
    target = Target(TableDecoder(TABLE), taps=[0])
    rows = [session(0, (1, 2)), session(1, (2,)), session(2, (3, 3, 0))]
    prefilled(target, rows[0], rows[2])
    drafts = [TREE, Draft.chain([1, 0]), Draft.chain([])]
    scored = target.score(rows, drafts)
    for item, draft, result in zip(rows, drafts, scored, strict=True):
        assert result.is_tree is (draft is TREE)
        for node in range(ROOT, draft.num_tokens):
            path = [draft.token_ids[step] for step in draft.path_to(node)]
            law = TABLE.law([*item.token_ids, *path])
            assert torch.allclose(result.scores.logits[node + 1], law.log())
            assert torch.equal(result.taps[0][node + 1], law.float())
    along = scored[0].taps_of((1, 3))[0]
    assert torch.equal(along, scored[0].taps[0][[0, 2, 4]])
    assert scored[1].taps_of((0,))[0].shape == (2, 4)


@pytest.mark.parametrize("path", [(), (0,), (1,), (1, 3), (0, 2), (0, 2, 4)])
def test_only_the_accepted_path_stays_in_the_cache(path) -> None:
    decoder = TableDecoder(TABLE)
    target, item = Target(decoder), session(2, (1, 2))
    prefilled(target, item)
    (scored,) = target.score([item], [TREE])
    target.follow(item, scored, path)
    assert decoder._tokens[2] == [1, 2, *(TREE.token_ids[node] for node in path)]
    item.token_ids += [*(TREE.token_ids[node] for node in path), 3]
    target.keep(item)
    assert decoder.length(2) == item.num_cached


def test_following_a_chain_leaves_the_cache_alone() -> None:
    target, item = Target(TableDecoder(TABLE)), session(0, (1,))
    (scored,) = target.score([item], [Draft.chain([0, 1])])
    target.follow(item, scored, (0,))
    assert target.decoder.length(0) == 3


def test_leaves_of_a_tree_that_end_the_text() -> None:
    item = session(0, (1,), stop_token_ids=frozenset({2}), min_new_tokens=2)
    (scored,) = Target(TableDecoder(TABLE)).score([item], [TREE])
    assert scored.scores.ends == {4}
    item = session(0, (1,), stop_token_ids=frozenset({2, 3}))
    (scored,) = Target(TableDecoder(TABLE)).score([item], [TREE])
    assert scored.scores.ends == {1, 3, 4}
