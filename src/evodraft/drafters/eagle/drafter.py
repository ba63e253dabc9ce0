"""The EAGLE-3 drafter: guesses on from the target's hidden states (arXiv 2503.01840).

Where the target has been, columns are computed from its own features; a draft goes on from the head's. What was drafted
is forgotten with every commit and accepted positions are computed again, in the same pass that starts the next draft.
Does not know files, targets or laws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from evodraft.drafters.base import DrafterNeeds, DraftRow, DraftStep, Drawn, Grown
from evodraft.drafters.eagle.chains import chains_by_steps, drawn_chains, native_chains
from evodraft.drafters.eagle.growing import grow_trees
from evodraft.drafters.eagle.native import is_behind, native_weights, run_natively
from evodraft.drafters.eagle.passes import Passes
from evodraft.drafters.eagle.rollout import Rollout
from evodraft.errors import ConfigError
from evodraft.runtime.cache import SlotCache
from evodraft.types import Versions

if TYPE_CHECKING:
    from evodraft.drafters.base import CommittedRow, Draw, Draws, Growth, Rank
    from evodraft.drafters.eagle.head import EagleHead
    from evodraft.drafters.eagle.step import EagleStep
    from evodraft.drafters.sliced_head import SlicedHead
    from evodraft.runtime.native.chain import ChainWeights
    from evodraft.target import Chunk
    from evodraft.types import Update

BRANCHING: Final = 8
"""Nodes of a level that get children, and children of a node, at most (both are 10 in the paper)."""
DRAFT_COLUMNS: Final = 256
"""Columns of a slot beyond the text, for drafts. A tree that needs more stops growing."""


class EagleDrafter:
    """Drafts with a head.

    A row whose features are not all known is offered nothing: that of a one-token prompt until the target has seen the
    token, and for good that of a sequence of which some round or piece of the prompt was never shown.

    Args:
        head: says which layers of the target are tapped.
        embedding: of tokens, the head's own or the target's.
        output: the output matrix, whole or sliced.
        num_slots: sequences at once.
        max_length: tokens per sequence that drafts look back on.
        step: the arithmetic, made for the head.
        vocab_size: columns of the target's laws.
        cache_tokens: bounds what the cache takes ahead of need, rows x columns; None = no bound but the slots'.
        load: what `apply` calls with an update's payload to change the weights in place; None = they are fixed.
    """

    def __init__(
        self,
        head: EagleHead,
        embedding: torch.Tensor,  # [vocab, hidden]
        output: SlicedHead,
        num_slots: int,
        max_length: int,
        *,
        step: EagleStep,
        vocab_size: int,
        cache_tokens: int | None = None,
        load: Callable[[object], None] | None = None,
    ) -> None:
        self.needs = DrafterNeeds(taps=tuple(head.shape.taps))
        self.versions = Versions()
        self.max_length: int | None = max_length
        self.head = head
        budget = num_slots * max_length if cache_tokens is None else cache_tokens
        self.cache = SlotCache(1, num_slots, max_length + DRAFT_COLUMNS, budget_tokens=budget)
        self._step = step
        self._output = output
        self._rollout = Rollout(Passes(step, embedding, self.cache), output, vocab_size)
        self._load = load
        self._weights = native_weights(self._rollout)
        self.draw: Draw | None = None if self._weights is None else self._draw

    @property
    def copied_bytes(self) -> int:
        """Weights that it holds beside the head's and the target's."""
        return self._output.copied_bytes

    def admit(self, chunks: Sequence[Chunk]) -> None:
        if any(chunk.start == 0 for chunk in chunks):
            self._refresh()
        self._learn([_Shown(chunk.slot, chunk.start, chunk.taps) for chunk in chunks])
        pieces = [self._rollout.prompt_piece(chunk.slot, tokens) for chunk in chunks if (tokens := self._ripe(chunk))]
        for piece, output in zip(pieces, self._rollout.passes.run(pieces) if pieces else (), strict=True):
            self._rollout.held[piece.slot].settle(output.shape[0], output[-1])

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        ready = [index for index, row in enumerate(rows) if self._rollout.is_ready(row)]
        if not ready:
            return DraftStep(token_ids=(None,) * len(rows))
        logits = self._logits([rows[index] for index in ready])
        if len(ready) < len(rows):  # a row without a finite number ends its draft before the draw
            offers = logits.new_full((len(rows), logits.shape[1]), -torch.inf)
            offers[ready] = logits
            logits = offers
        return DraftStep(logits=logits, ids=self._output.ids)

    def grow(
        self, rows: Sequence[DraftRow], growths: Sequence[Growth], rank: Rank | None, want_signals: bool
    ) -> list[Grown]:
        """A chain where no more nodes than depth are asked for, else a tree; for rows of which nothing is drafted yet.

        Nothing is drawn: a token is there because no other was worth more, so it has no law.
        """
        grown = [Grown((), ())] * len(rows)
        ready = [
            index
            for index, (row, growth) in enumerate(zip(rows, growths, strict=True))
            if min(growth) > 0 and self._rollout.is_ready(row)
        ]
        chains = [index for index in ready if growths[index].num_nodes <= growths[index].depth]
        trees = [index for index in ready if growths[index].num_nodes > growths[index].depth]
        for numbers, run in ((chains, self._chains), (trees, self._trees)):
            if numbers:
                found = run([rows[i] for i in numbers], [growths[i] for i in numbers], numbers, rank, want_signals)
                for number, one in zip(numbers, found, strict=True):
                    grown[number] = one
        return grown

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        for row in rows:
            self._rollout.rewind(row.slot)
        self._learn([_Shown(row.slot, row.num_confirmed - _num_tokens(row.taps), row.taps) for row in rows if row.taps])

    def release(self, slot: int) -> None:
        self._rollout.release(slot)

    def apply(self, update: Update) -> None:
        if self._load is None:
            raise ConfigError("an update arrived for a head with fixed weights; build its drafter with `load=`")
        self._load(update.payload)
        self._refresh()
        self.versions = update.versions

    # ---- what the target shows -----------------------------------------------------------------------------------

    def _learn(self, shown: Sequence[_Shown]) -> None:
        for one in shown:
            self._rollout.held[one.slot].learn(one.start, torch.cat([one.taps[i] for i in self.needs.taps], dim=-1))

    def _ripe(self, chunk: Chunk) -> Sequence[int]:
        """Tokens of a prompt for which columns wait; none of a prompt that is torn or does not fit, nor of one that an
        interrupted round left behind: the first step catches up with it."""
        held = self._rollout.held[chunk.slot]
        assert self.max_length is not None, "the cache has a length"
        if held.num_known > self.max_length:
            held.tear()
        first = held.num_true + 1 - chunk.start
        return () if held.is_torn or first < 0 else chunk.token_ids[first:]

    def _refresh(self) -> None:
        """Between rounds: what was written into weights is taken over."""
        self._step.refresh()
        self._output.refresh()

    # ---- what is offered -----------------------------------------------------------------------------------------

    def _weights_for(self, rows: Sequence[DraftRow]) -> ChainWeights | None:
        """Those that the library needs to go on with these rows in one call; None where it cannot."""
        return self._weights if all(is_behind(self._rollout, row) for row in rows) else None

    def _logits(self, rows: Sequence[DraftRow]) -> torch.Tensor:  # [rows, columns]
        weights = self._weights_for(rows)
        if weights is not None:
            return self._rollout.fitted(run_natively(self._rollout, weights, rows).logits)
        return self._rollout.logits(self._rollout.features(rows))

    # ---- what is drawn -------------------------------------------------------------------------------------------

    def _draw(self, rows: Sequence[DraftRow], draws: Sequence[Draws]) -> list[Drawn | None]:
        """For rows of which nothing is drafted yet, nor was before the last was taken back."""
        assert self._weights is not None, "the library was asked for"
        drawn: list[Drawn | None] = [None] * len(rows)
        able = [i for i, row in enumerate(rows) if self._rollout.is_ready(row) and is_behind(self._rollout, row)]
        if able:
            found = drawn_chains(self._rollout, self._weights, [rows[i] for i in able], [draws[i] for i in able])
            for index, one in zip(able, found, strict=True):
                drawn[index] = one
        return drawn

    # ---- what is grown -------------------------------------------------------------------------------------------

    def _chains(
        self,
        rows: Sequence[DraftRow],
        growths: Sequence[Growth],
        numbers: Sequence[int],
        rank: Rank | None,
        want_signals: bool,
    ) -> list[Grown]:
        depths = [growth.num_nodes for growth in growths]
        weights = self._weights_for(rows) if rank is None else None
        if weights is not None:
            return native_chains(self._rollout, weights, rows, depths, want_signals=want_signals)
        return chains_by_steps(self._rollout, rows, depths, numbers, rank, want_signals=want_signals)

    def _trees(
        self,
        rows: Sequence[DraftRow],
        growths: Sequence[Growth],
        numbers: Sequence[int],
        rank: Rank | None,
        want_signals: bool,
    ) -> list[Grown]:
        return grow_trees(self._rollout, rows, growths, numbers, rank, BRANCHING, want_signals=want_signals)


class _Shown(NamedTuple):
    """Hidden states of some tokens of a slot."""

    slot: int
    start: int
    taps: Mapping[int, torch.Tensor]  # layer -> [tokens, target hidden]


def _num_tokens(taps: Mapping[int, torch.Tensor]) -> int:
    return next(iter(taps.values())).shape[0]
