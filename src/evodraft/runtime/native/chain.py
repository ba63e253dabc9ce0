"""Drafts in one call of the library: fused states, pass, norm, output matrix, a token, pass, and so on.

Tokens are the best ones, or drawn with noise that was settled before.

For models of one layer that reads tokens beside its states. Does not know where states come from, nor what became of
earlier drafts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.runtime.native import library as native
from evodraft.runtime.native.step import books_of, short_of_memory
from evodraft.types import Signals

if TYPE_CHECKING:
    from evodraft.runtime.cache import CachePass, SlotCache
    from evodraft.runtime.native.step import NativeStep


@dataclass(frozen=True, slots=True)
class ChainWeights:
    """What a model of one layer starts with, and goes on with. All of the type of its weights, contiguous."""

    fuse: torch.Tensor  # [hidden, taps]
    head: torch.Tensor  # [ids, hidden]
    ids: torch.Tensor | None  # [ids] int64: token of each row; None = the row's number
    embedding: torch.Tensor  # [embedding rows, hidden]
    known: native.Chain = field(init=False, repr=False, compare=False)  # what of a call is always the same

    def __post_init__(self) -> None:
        known = native.Chain(
            fuse=native.Matrix(self.fuse.data_ptr(), None, *self.fuse.shape),
            head=native.Matrix(self.head.data_ptr(), None, *self.head.shape),
            ids=_address(self.ids),
            embedding=self.embedding.data_ptr(),
            embedding_rows=self.embedding.shape[0],
        )
        object.__setattr__(self, "known", known)

    def started(self, start: ChainStart) -> native.Chain:
        """What goes on from `start`; it keeps alive the numbers of it, not the tensors."""
        chain = native.Chain.from_buffer_copy(self.known)
        tokens = (ctypes.c_int64 * len(start.token_ids))(*start.token_ids)
        last = (ctypes.c_int64 * len(start.widths))(*(end - 1 for end in accumulate(start.widths)))
        chain.taps, chain.given = _address(start.taps), _address(start.states)
        chain.tokens, chain.last = ctypes.addressof(tokens), ctypes.addressof(last)
        chain.num_drafts = len(start.widths)
        chain.kept = (tokens, last)
        return chain


class ChainStart(NamedTuple):
    """Tokens of a pass, those of all rows one after the other; states, or what they are fused from."""

    taps: torch.Tensor | None  # [tokens, taps] of the type of the weights, contiguous
    states: torch.Tensor | None  # [tokens, hidden] float32, contiguous
    token_ids: Sequence[int]  # [tokens], whose embeddings stand beside the states
    widths: Sequence[int]  # [rows]


class Dice(NamedTuple):
    """What tokens are drawn with instead of taking the best: softmax at a temperature, and noise."""

    temperatures: Sequence[float]  # [rows]
    key_words: Sequence[Sequence[tuple[int, int]]]  # [rows][depth at most], as `hashed_uniform` takes them


class Chains(NamedTuple):
    """What came of a call."""

    states: torch.Tensor  # [rows, hidden] float32, behind the last token of the pass
    logits: torch.Tensor  # [rows, ids] float32, of the last tokens drafted
    token_ids: list[list[int]]  # [rows][depth at most]: shorter where logits were not finite
    signals: list[list[Signals]]  # likewise; empty lists if not wanted
    laws: torch.Tensor | None  # [rows, depth, ids] float32 that tokens were drawn from; None = best tokens


def draft_chains(
    step: NativeStep,
    weights: ChainWeights,
    start: ChainStart,
    cache: SlotCache,
    plan: CachePass,  # with room for depth - 1 tokens more than each row starts with
    depth: int,
    *,
    want_signals: bool = False,  # of best tokens
    dice: Dice | None = None,
) -> Chains:
    """Tokens after each row, `depth` of them. The caller declares the pass and ends it, as for `Step.layers`.

    Behind the tokens that a row has noise for, others mean nothing. Raises CapacityError if memory runs out.
    """
    num_rows, (num_ids, size) = len(start.widths), weights.head.shape
    states, logits = torch.empty(num_rows, size), torch.empty(num_rows, num_ids)
    laws = None if dice is None else torch.empty(num_rows, depth, num_ids)
    thrown = None if dice is None else _thrown(dice, depth)
    drafted = (ctypes.c_int64 * (num_rows * depth))()
    signals = (ctypes.c_float * (3 * num_rows * depth))() if want_signals else None
    chain = weights.started(start)
    chain.final_norm, chain.depth = step.final_norm.data_ptr(), depth
    chain.states, chain.logits, chain.laws = states.data_ptr(), logits.data_ptr(), _address(laws)
    chain.token_ids = ctypes.addressof(drafted)
    chain.signals = None if signals is None else ctypes.addressof(signals)
    if thrown is not None:
        chain.words, chain.temperatures = ctypes.addressof(thrown.words), ctypes.addressof(thrown.temperatures)
    call = step.call(cache, plan, books_of(plan, start.widths), 0, 1, None)
    if not step.library.chain(step.model, call, chain):
        raise short_of_memory(len(start.token_ids))
    drafts = [_sound(drafted[row * depth : (row + 1) * depth]) for row in range(num_rows)]
    return Chains(states, logits, drafts, _all_signals(signals, drafts, depth), laws)


class _Thrown(NamedTuple):
    """Dice as the library takes them."""

    words: ctypes.Array[ctypes.c_int32]  # [rows * depth * 2]
    temperatures: ctypes.Array[ctypes.c_float]  # [rows]


def _thrown(dice: Dice, depth: int) -> _Thrown:
    words: list[int] = []
    for row in dice.key_words:
        numbers = [word for pair in row[:depth] for word in pair]
        words += numbers + [0] * (2 * depth - len(numbers))
    return _Thrown((ctypes.c_int32 * len(words))(*words), (ctypes.c_float * len(dice.temperatures))(*dice.temperatures))


def _sound(token_ids: list[int]) -> list[int]:
    return token_ids[: token_ids.index(-1)] if -1 in token_ids else token_ids


def _all_signals(
    numbers: ctypes.Array[ctypes.c_float] | None,  # [rows * depth * 3]
    drafts: Sequence[Sequence[int]],
    depth: int,
) -> list[list[Signals]]:
    if numbers is None:
        return [[] for _ in drafts]
    return [_signals(numbers[3 * row * depth :], len(draft)) for row, draft in enumerate(drafts)]


def _signals(numbers: list[float], count: int) -> list[Signals]:
    """The best token was taken: its probability is the largest."""
    triples = [numbers[start : start + 3] for start in range(0, 3 * count, 3)]
    return [Signals(entropy, top1, top1 - second, top1) for entropy, top1, second in triples]


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
