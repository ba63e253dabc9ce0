"""Rejection on trees: siblings that were chosen, drawn with and drawn without replacement leave the law alone.

Engines draft chains today; the verifiers walk `parents`, so they are asked here directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from evodraft.params import SamplingParams
from evodraft.sampling import RequestKeys
from evodraft.testing import EnumeratingStream, TableLM, enumerate_outcomes
from evodraft.types import ROOT, Draft, Request, Scores
from evodraft.verifiers import Case, RejectionVerifier

TARGET = TableLM.random(3, order=1, seed=21)
WIDE_TARGET = TableLM.random(4, order=1, seed=22)
PROMPT = (0, 2)
VERIFIER = RejectionVerifier()


def table_of_draft(vocab_size: int) -> TableLM:
    """Every token is possible, so that siblings without replacement never run out."""
    rows = torch.tensor([[5, 2, 1, 1], [1, 6, 1, 1], [2, 2, 4, 1], [1, 3, 3, 2]], dtype=torch.float64)
    rows = rows[:vocab_size, :vocab_size]
    return TableLM(rows / rows.sum(dim=-1, keepdim=True), order=1)


@dataclass
class Growing:
    """A tree under construction: every node is drawn from a law, or chosen."""

    stream: EnumeratingStream
    keys: RequestKeys
    table: TableLM
    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    q: list[torch.Tensor] = field(default_factory=list)

    def path(self, node: int) -> list[int]:
        return [] if node == ROOT else [*self.path(self.parents[node]), self.token_ids[node]]

    def law(self, parent: int) -> torch.Tensor:
        return self.table.law([*PROMPT, *self.path(parent)])

    def draw(self, parent: int, law: torch.Tensor) -> int:
        request = Request("a", PROMPT, SamplingParams(), seed=0)
        key = VERIFIER.draft_key(request, self.keys, len(PROMPT) + len(self.path(parent)))
        return self.add(parent, int(self.stream.draw(law[None], [key])[0]), law)

    def draw_without_replacement(self, parent: int) -> int:
        law = self.law(parent).clone()
        taken = [token_id for token_id, above in zip(self.token_ids, self.parents, strict=True) if above == parent]
        law[taken] = 0.0
        return self.draw(parent, law / law.sum())

    def add(self, parent: int, token_id: int, law: torch.Tensor | None = None) -> int:
        self.token_ids.append(token_id)
        self.parents.append(parent)
        self.q.append(law if law is not None else torch.eye(self.table.vocab_size, dtype=torch.float64)[token_id])
        return len(self.token_ids) - 1

    def draft(self, *, has_law: bool = True) -> Draft:
        q = torch.stack(self.q) if has_law and self.q else None
        return Draft(tuple(self.token_ids), tuple(self.parents), q)


@dataclass
class TableLaws:
    table: TableLM
    prefix: Sequence[int]

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        return self.table.law([*self.prefix, *path])

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


def emitted_law(table: TableLM, grow: Callable[[Growing], Draft], num_tokens: int, *, has_ends: bool = False):
    """Law of the first `num_tokens` tokens: one tree, then plain decoding."""

    def run(stream: EnumeratingStream) -> tuple[int, ...]:
        keys = RequestKeys(seed=0)
        draft = grow(Growing(stream, keys, table_of_draft(table.vocab_size)))
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            prefix = [*PROMPT, *tokens]
            leaves = set(range(draft.num_tokens)).difference(draft.parents)
            scores = Scores(torch.empty(0), TableLaws(table, prefix), frozenset(leaves if has_ends else ()))
            request = Request("a", PROMPT, SamplingParams(temperature=1.0), seed=0)
            tokens += VERIFIER.verify(Case(request, keys, len(prefix), draft, scores), stream).token_ids
            draft = Draft.chain([])
        return tuple(tokens[:num_tokens])

    return enumerate_outcomes(run)


def chosen(parents: Sequence[int], token_ids: Sequence[int]) -> Callable[[Growing], Draft]:
    return lambda tree: Draft(tuple(token_ids), tuple(parents), None)


def siblings(num: int, *, with_replacement: bool) -> Callable[[Growing], Draft]:
    def grow(tree: Growing) -> Draft:
        for _ in range(num):
            if with_replacement:
                tree.draw(ROOT, tree.law(ROOT))
            else:
                tree.draw_without_replacement(ROOT)
        return tree.draft()

    return grow


def two_levels(tree: Growing) -> Draft:
    """Two children of the root drawn without replacement; the first has two drawn children, the second one."""
    first, second = tree.draw_without_replacement(ROOT), tree.draw_without_replacement(ROOT)
    for parent in (first, first, second):
        tree.draw(parent, tree.law(parent))
    return tree.draft()


def adaptive(tree: Growing) -> Draft:
    """Where the tree grows depends on what was drawn before; every drawn token stays (X2)."""
    first = tree.draw(ROOT, tree.law(ROOT))
    if tree.token_ids[first] != 0:
        tree.draw(ROOT, tree.law(ROOT))
    else:
        tree.draw(first, tree.law(first))
    return tree.draft()


def half_chosen(tree: Growing) -> Draft:
    """A chosen child is tried before and after a drawn one; its law is one-hot."""
    tree.add(ROOT, 1)
    tree.draw(ROOT, tree.law(ROOT))
    tree.add(ROOT, 2)
    return tree.draft()


TREES = {
    "chosen siblings": chosen((ROOT, ROOT), (2, 0)),
    "all ids as chosen siblings": chosen((ROOT, ROOT, ROOT), (1, 0, 2)),
    "the same id twice": chosen((ROOT, ROOT, ROOT), (1, 1, 0)),
    "chosen, three levels": chosen((ROOT, 0, ROOT, 2, 2, 4), (0, 1, 2, 0, 1, 1)),
    "one drawn": siblings(1, with_replacement=True),
    "two drawn with replacement": siblings(2, with_replacement=True),
    "three drawn with replacement": siblings(3, with_replacement=True),
    "two drawn without replacement": siblings(2, with_replacement=False),
    "all drawn without replacement": siblings(3, with_replacement=False),
    "two levels": two_levels,
    "grown by what was drawn": adaptive,
    "chosen beside drawn": half_chosen,
}


@pytest.mark.parametrize("has_ends", [False, True])
@pytest.mark.parametrize("grow", TREES.values(), ids=TREES)
def test_the_law_of_three_tokens_is_the_targets(grow, has_ends) -> None:
    assert emitted_law(TARGET, grow, 3, has_ends=has_ends) == TARGET.joint(PROMPT, 3)


@pytest.mark.parametrize("with_replacement", [True, False])
def test_four_ids(with_replacement) -> None:
    grow = siblings(3, with_replacement=with_replacement)
    assert emitted_law(WIDE_TARGET, grow, 2) == WIDE_TARGET.joint(PROMPT, 2)


def test_a_law_that_forgets_the_removed_sibling_is_caught() -> None:
    """The second sibling comes without replacement, but q says with."""

    def grow(tree: Growing) -> Draft:
        tree.draw_without_replacement(ROOT)
        tree.draw_without_replacement(ROOT)
        tree.q[1] = tree.law(ROOT)
        return tree.draft()

    assert emitted_law(TARGET, grow, 1) != TARGET.joint(PROMPT, 1)


def test_a_pruned_sibling_is_caught() -> None:
    """A drawn node is thrown away because of its value (X2)."""

    def grow(tree: Growing) -> Draft:
        node = tree.draw(ROOT, tree.law(ROOT))
        return Draft.chain([]) if tree.token_ids[node] == 2 else tree.draft()

    assert emitted_law(TARGET, grow, 1) != TARGET.joint(PROMPT, 1)
