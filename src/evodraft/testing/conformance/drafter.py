"""Checks for drafters: an offer depends on the row's tokens alone, whatever happened before or beside it.

Does not know targets: where a drafter feeds on the target's hidden states, it gets made-up ones that are a fixed
function of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from evodraft.drafters.base import CommittedRow, DrafterNeeds, DraftRow, DraftStep, Grow, Grown, Growth, Place
from evodraft.target import Chunk
from evodraft.testing.conformance.expect import expect, expect_close
from evodraft.types import Versions

if TYPE_CHECKING:
    from evodraft.drafters.base import Drafter

MakeDrafter = Callable[[], "Drafter"]


def check_drafter(make: MakeDrafter, vocab_size: int, *, tap_size: int = 8, tolerance: float = 1e-4) -> None:
    """Raises AssertionError unless drafters from `make` keep the Drafter protocol.

    `make` returns a fresh drafter with at least 3 slots of at least 32 tokens; `vocab_size` is the target's;
    `tap_size` the width of the target's hidden states; `tolerance` bounds how far logits may differ between ways to
    the same context.

    >>> from evodraft.drafters.ngram import NgramDrafter
    >>> check_drafter(NgramDrafter, vocab_size=4)
    """
    trial = _Trial(make, vocab_size, tap_size, tolerance)
    trial.check_facts()
    trial.check_offer()
    trial.check_neighbours()
    trial.check_chunks()
    trial.check_rollback()
    trial.check_pause()
    trial.check_release()
    trial.check_randomness()
    trial.check_growth()


class _Trial:
    """One drafter factory under test."""

    def __init__(self, make: MakeDrafter, vocab_size: int, tap_size: int, tolerance: float) -> None:
        self.make = make
        self.vocab_size = vocab_size
        self.tap_size = tap_size
        self.tolerance = tolerance

    def check_facts(self) -> None:
        drafter = self.make()
        expect(isinstance(drafter.needs, DrafterNeeds), f"needs is {drafter.needs!r} instead of DrafterNeeds")
        expect(isinstance(drafter.versions, Versions), f"versions is {drafter.versions!r} instead of Versions")
        length = drafter.max_length
        expect(length is None or (isinstance(length, int) and length >= 32), f"max_length={length!r} is below 32")

    def check_offer(self) -> None:
        """One of the two fields, one entry per row, ids of the target only; the rows' tokens are left alone."""
        drafter = self.make()
        texts = [self._text(6, 1), self._text(3, 2), self._text(1, 3)]
        rows = [self._start(drafter, slot, text) for slot, text in enumerate(texts)]
        for num_drafted in range(3):
            step = drafter.step(rows)
            self._check_step(step, len(rows))
            for row, text in zip(rows, texts, strict=True):
                expect(list(row.committed) == text, "step() changed the committed tokens of a row")
                expect(len(row.drafted) == num_drafted, "step() changed the drafted tokens of a row")
                row.drafted.append(self._text(1, 4)[0])

    def check_neighbours(self) -> None:
        """A row gets the same offers in a batch, in another order, and in another slot."""
        texts = [self._text(5, 5), self._text(8, 6), self._text(2, 7)]
        drafter = self.make()
        rows = [self._start(drafter, slot, text) for slot, text in enumerate(texts)]
        rows = [rows[2], rows[0], rows[1]]
        for number in range(2):
            together = drafter.step(rows)
            for index, row in enumerate(rows):
                alone = self._fresh_offer([*row.committed], row.drafted)
                self._same(self._row(together, index), alone, f"draft token {number + 1} of a row in a batch of 3")
                row.drafted.append((index + number) % self.vocab_size)
            rows = rows[:2]

    def check_chunks(self) -> None:
        """A prompt in chunks is the same prompt."""
        drafter, text = self.make(), self._text(9, 8)
        for start, end in ((0, 1), (1, 5), (5, 8)):
            drafter.admit([self._chunk(0, text, start, end)])
        step = drafter.step([DraftRow(0, text)])
        self._same(self._row(step, 0), self._fresh_offer(text, []), "the offer after a prompt in three chunks")

    def check_rollback(self) -> None:
        """Rejected draft tokens leave no trace, however many stood."""
        text, drafted, own = self._text(6, 9), self._text(3, 10), self._text(4, 11)
        for num_accepted in range(len(drafted) + 1):
            drafter = self.make()
            row = self._start(drafter, 1, list(text))
            for token_id in drafted:
                drafter.step([row])
                row.drafted.append(token_id)
            committed = [*text, *drafted[:num_accepted], own[num_accepted]]
            self._commit(drafter, 1, committed, num_accepted)
            step = drafter.step([DraftRow(1, committed)])
            what = f"the offer after {num_accepted} of {len(drafted)} draft tokens stood"
            self._same(self._row(step, 0), self._fresh_offer(committed, []), what)

    def check_pause(self) -> None:
        """Rounds without drafts are caught up with."""
        drafter, text = self.make(), self._text(9, 12)
        self._start(drafter, 2, text[:4])
        for length in range(5, len(text) + 1):
            self._commit(drafter, 2, text[:length], 0)
        step = drafter.step([DraftRow(2, text)])
        self._same(self._row(step, 0), self._fresh_offer(text, []), "the offer after rounds without drafts")

    def check_release(self) -> None:
        """A slot is given to another sequence, also before it ever drafted."""
        drafter, text = self.make(), self._text(7, 13)
        drafter.release(0)
        row = self._start(drafter, 0, self._text(8, 14))
        drafter.step([row])
        drafter.release(0)
        self._start(drafter, 0, self._text(5, 15))
        drafter.release(0)
        step = drafter.step([self._start(drafter, 0, text)])
        self._same(self._row(step, 0), self._fresh_offer(text, []), "the offer in a slot used before")

    def check_randomness(self) -> None:
        """A drafter never draws: the engine does, from the law it is told (X1)."""
        text, before = self._text(5, 16), torch.get_rng_state()
        first = self._fresh_offer(text, [])
        expect(torch.equal(before, torch.get_rng_state()), "step() draws from torch's global generator; return a law")
        self._same(self._fresh_offer(text, []), first, "the offer of a second drafter")

    def check_growth(self) -> None:
        """Where it can grow: within limits, by the ranks it is told, and without a trace."""
        drafter = self.make()
        grow: Grow | None = getattr(drafter, "grow", None)
        if grow is None:
            return
        texts = [self._text(6, 17), self._text(3, 18), self._text(4, 19)]
        rows = [self._start(drafter, slot, text) for slot, text in enumerate(texts)]
        growths = [Growth(3, 3), Growth(2, 6), Growth(1, 4)]
        for rank in (None, _by_logits):
            grown = grow(rows, growths, rank, True)
            expect(len(grown) == len(rows), f"{len(grown)} trees were grown for {len(rows)} rows")
            for tree, growth, row, text in zip(grown, growths, rows, texts, strict=True):
                _check_tree(tree, growth, self.vocab_size)
                expect(list(row.committed) == text and not row.drafted, "grow() changed the tokens of a row")
        alone = self.make()
        row = self._start(alone, 1, texts[1])
        (wanted,) = _grow_of(alone)([row], growths[1:2], None, True)
        expect(grown[1].token_ids == wanted.token_ids, f"a row grew {grown[1]} in a batch and {wanted} alone")
        for slot, text in enumerate(texts):
            longer = [*text, *self._text(3, 20)]  # of the tree nothing stood, and two rounds passed without a draft
            for length in range(len(text) + 1, len(longer) + 1):
                self._commit(drafter, slot, longer[:length], 0)
            step = drafter.step([DraftRow(slot, longer)])
            self._same(self._row(step, 0), self._fresh_offer(longer, []), "the offer after a tree of which none stood")

    # --- what the engine does -------------------------------------------------------------------------------------

    def _start(self, drafter: Drafter, slot: int, text: list[int]) -> DraftRow:
        if len(text) > 1:
            drafter.admit([self._chunk(slot, text, 0, len(text) - 1)])
        return DraftRow(slot, list(text))

    def _commit(self, drafter: Drafter, slot: int, committed: Sequence[int], num_accepted: int) -> None:
        num_confirmed = len(committed) - 1
        taps = self._taps(committed, num_confirmed - num_accepted - 1, num_confirmed, drafter.needs)
        drafter.commit([CommittedRow(slot, num_confirmed, taps)])

    def _chunk(self, slot: int, text: Sequence[int], start: int, end: int) -> Chunk:
        return Chunk(slot, start, tuple(text[start:end]), self._taps(text, start, end, self.make().needs))

    def _taps(self, text: Sequence[int], start: int, end: int, needs: DrafterNeeds) -> dict[int, torch.Tensor]:
        """Made-up hidden states [end - start, tap_size] of the tokens start .. end - 1."""
        columns = torch.arange(1, self.tap_size + 1, dtype=torch.float32)
        sums = torch.tensor([float(sum(text[: position + 1])) for position in range(start, end)])
        return {layer: torch.sin(sums[:, None] * columns + layer) for layer in needs.taps}

    def _fresh_offer(self, committed: list[int], drafted: Sequence[int]) -> torch.Tensor | int | None:
        """What a drafter offers that was made for this context alone."""
        drafter = self.make()
        row = self._start(drafter, 0, list(committed))
        for token_id in drafted:
            drafter.step([row])
            row.drafted.append(token_id)
        return self._row(drafter.step([row]), 0)

    def _row(self, step: DraftStep, index: int) -> torch.Tensor | int | None:
        """The offer of a row; a law [vocab] is -inf where no column stands for the id."""
        if step.logits is None:
            return None if step.token_ids is None else step.token_ids[index]
        row = step.logits[index]
        return row if step.ids is None else row.new_full((self.vocab_size,), -torch.inf).index_copy(0, step.ids, row)

    def _check_step(self, step: DraftStep, num_rows: int) -> None:
        is_one = (step.logits is None) != (step.token_ids is None)
        expect(is_one, "a DraftStep gives either logits or token_ids, exactly one of them")
        if step.logits is not None:
            num_columns = self.vocab_size if step.ids is None else len(step.ids)
            shape, wanted = tuple(step.logits.shape), (num_rows, num_columns)
            expect(shape == wanted, f"logits have shape {shape} instead of [rows, columns] = {wanted}")
            expect(step.logits.is_floating_point(), f"logits are {step.logits.dtype}, not floating point")
        if step.ids is not None:
            _check_ids(step.ids.tolist(), self.vocab_size)
        if step.token_ids is not None:
            expect(len(step.token_ids) == num_rows, f"{len(step.token_ids)} token ids came for {num_rows} rows")
            wrong = [i for i in step.token_ids if i is not None and not 0 <= i < self.vocab_size]
            expect(not wrong, f"token ids {wrong} are outside the target's vocabulary 0 .. {self.vocab_size - 1}")

    def _same(self, offer: torch.Tensor | int | None, wanted: torch.Tensor | int | None, what: str) -> None:
        offer, wanted = _simplest(offer), _simplest(wanted)
        if isinstance(offer, torch.Tensor) and isinstance(wanted, torch.Tensor):
            expect_close(offer, wanted, self.tolerance, f"{what} against a fresh drafter")
            return
        is_law = isinstance(offer, torch.Tensor) or isinstance(wanted, torch.Tensor)
        expect(not is_law and offer == wanted, f"{what} is {offer}, but a fresh drafter offers {wanted}")

    def _text(self, length: int, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        ids: list[int] = torch.randint(self.vocab_size, (length,), generator=generator).tolist()
        return ids


def _check_ids(ids: list[int], vocab_size: int) -> None:
    is_sound = ids == sorted(set(ids)) and all(0 <= token_id < vocab_size for token_id in ids)
    expect(is_sound, f"columns stand for the ids {ids}; they must ascend within 0 .. {vocab_size - 1}, each once")


def _simplest(offer: torch.Tensor | int | None) -> torch.Tensor | int | None:
    """A law of one token is a choice, and one of none is no offer."""
    if not isinstance(offer, torch.Tensor):
        return offer
    possible = (~offer.isneginf()).nonzero()[:, 0].tolist()
    if len(possible) > 1:
        return offer
    return int(possible[0]) if possible else None


def _check_tree(tree: Grown, growth: Growth, vocab_size: int) -> None:
    expect(tree.num_tokens <= growth.num_nodes, f"{tree.num_tokens} tokens were grown, the limit was {growth}")
    expect(tree.depth <= growth.depth, f"a tree of depth {tree.depth} was grown, the limit was {growth}")
    expect(tree.is_chain or growth.num_nodes > growth.depth, f"{tree} is no chain, as {growth} asks for")
    wrong = [token_id for token_id in tree.token_ids if not 0 <= token_id < vocab_size]
    expect(not wrong, f"token ids {wrong} are outside the target's vocabulary 0 .. {vocab_size - 1}")
    expect(len(tree.signals) == tree.num_tokens, f"{len(tree.signals)} signals came for {tree.num_tokens} tokens")


def _by_logits(logits: torch.Tensor, ids: torch.Tensor | None, places: Sequence[Place]) -> torch.Tensor:
    """A Rank that says what drafters do without one."""
    expect(len(places) == len(logits), f"{len(logits)} rows of logits were to be ranked at {len(places)} places")
    return logits.float().log_softmax(dim=-1)  # [nodes, columns]


def _grow_of(drafter: Drafter) -> Grow:
    grow: Grow = getattr(drafter, "grow")  # noqa: B009  # optional: not in the Drafter protocol
    return grow
