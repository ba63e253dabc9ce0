"""TableLM: a language model that is a table, small enough to enumerate everything it can say.

`TableDecoder` implements the Decoder protocol over such a table, so that the production engine, target and drafters
run on it unchanged. Its "cache" is the list of tokens a slot was fed: a wrong crop changes its laws, and a tree that
nobody selected from is an assertion. Does not know engines or verifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch

from evodraft.errors import CapacityError
from evodraft.runtime.base import DecoderOutput
from evodraft.runtime.trees import HELD, check_path, checked_parents

DENOMINATOR = 8
"""Probabilities of random tables are multiples of 1 / DENOMINATOR."""


@dataclass(frozen=True, slots=True)
class TableLM:
    """A law for every context of `order` tokens; earlier tokens do not matter, missing ones count as 0."""

    laws: torch.Tensor  # [vocab ** order, vocab] float64, rows are multiples of 1 / DENOMINATOR
    order: int

    @classmethod
    def random(cls, vocab_size: int = 3, order: int = 2, seed: int = 0, num_zeros: int = 0) -> TableLM:
        """A table of dyadic laws; in every row at least `num_zeros` tokens are impossible."""
        generator = torch.Generator().manual_seed(seed)
        rows = [_random_row(vocab_size, num_zeros, generator) for _ in range(vocab_size**order)]
        return cls(torch.tensor(rows, dtype=torch.float64) / DENOMINATOR, order)

    @property
    def vocab_size(self) -> int:
        return self.laws.shape[1]

    def law(self, context: Sequence[int]) -> torch.Tensor:
        """Law [vocab] of the token after `context`."""
        row = 0
        padded = [0] * self.order + list(context)
        for token_id in padded[len(padded) - self.order :]:
            row = row * self.vocab_size + token_id
        return self.laws[row]

    def joint(self, prompt: Sequence[int], num_tokens: int) -> dict[tuple[int, ...], Fraction]:
        """Exact probability of every continuation of `num_tokens` tokens."""
        joint: dict[tuple[int, ...], Fraction] = {(): Fraction(1)}
        for _ in range(num_tokens):
            joint = {
                (*path, token_id): mass * Fraction(probability)
                for path, mass in joint.items()
                for token_id, probability in enumerate(self.law([*prompt, *path]).tolist())
                if probability > 0
            }
        return joint


class _Appended(NamedTuple):
    """What a pass added to a slot."""

    start: int
    parents: tuple[int, ...]


class TableDecoder:
    """A Decoder whose logits are the logarithms of a table's laws."""

    num_layers = 1

    def __init__(self, table: TableLM, num_slots: int = 8, max_length: int = 64) -> None:
        self.table = table
        self.num_slots = num_slots
        self.max_length = max_length
        self.num_passes = 0
        self._tokens: list[list[int]] = [[] for _ in range(num_slots)]
        self._appended: dict[int, _Appended] = {}  # by slot: its last pass

    @property
    def vocab_size(self) -> int:
        return self.table.vocab_size

    def forward(
        self,
        token_ids: torch.Tensor,  # [batch, width]
        widths: Sequence[int],
        slots: Sequence[int],
        *,
        parents: Sequence[Sequence[int]] | None = None,
        want_logits: bool = True,
        taps: Sequence[int] = (),
    ) -> DecoderOutput:
        trees = checked_parents(parents, widths) or [range(HELD, width - 1) for width in widths]
        for width, slot in zip(widths, slots, strict=True):
            if len(self._tokens[slot]) + width > self.max_length:
                raise CapacityError(f"slot {slot} would hold more than {self.max_length} tokens; release it first")
            self._assert_single_path(slot)
        self.num_passes += 1
        logits = torch.zeros(*token_ids.shape, self.vocab_size, dtype=torch.float64)
        for row, (tree, slot) in enumerate(zip(trees, slots, strict=True)):
            held = self._tokens[slot]
            paths: list[list[int]] = []
            self._appended[slot] = _Appended(len(held), tuple(tree))
            for column, (parent, token_id) in enumerate(zip(tree, token_ids[row].tolist(), strict=False)):
                paths.append([*(held if parent == HELD else paths[parent]), token_id])
                logits[row, column] = self.table.law(paths[-1]).log()
            held += token_ids[row, : len(tree)].tolist()
        hidden = logits.exp().float()
        return DecoderOutput(logits if want_logits else None, dict.fromkeys(taps, hidden))

    def length(self, slot: int) -> int:
        return len(self._tokens[slot])

    def crop(self, slot: int, length: int, layers: range | None = None) -> None:
        del self._tokens[slot][length:]

    def select(self, slot: int, start: int, nodes: Sequence[int]) -> None:
        tokens = self._tokens[slot]
        check_path(nodes, len(tokens) - start)
        appended = self._appended.get(slot, _Appended(start, ()))
        assert start == appended.start, (
            f"select from {start} on, the last pass of slot {slot} began at {appended.start}"
        )
        tree = [appended.parents[node] for node in nodes]
        assert tree == [HELD, *nodes][: len(nodes)], f"nodes {list(nodes)} of slot {slot} have the parents {tree}"
        tokens[start:] = [tokens[start + node] for node in nodes]
        self._appended[slot] = _Appended(start, tuple(range(HELD, len(nodes) - 1)))

    def _assert_single_path(self, slot: int) -> None:
        """A tree in the slot would be read as text by the next pass."""
        start, parents = self._appended.get(slot, _Appended(0, ()))
        left = parents[: max(len(self._tokens[slot]) - start, 0)]
        assert left == tuple(range(HELD, len(left) - 1)), f"slot {slot} holds a tree: select a path of it or crop it"

    def release(self, slot: int) -> None:
        self._appended.pop(slot, None)
        self._tokens[slot].clear()

    def scrub(self, slot: int) -> None:
        """Nothing to do: what is cropped is gone."""


def _random_row(vocab_size: int, num_zeros: int, generator: torch.Generator) -> list[int]:
    allowed = torch.randperm(vocab_size, generator=generator)[: vocab_size - num_zeros]
    drawn = torch.randint(len(allowed), (DENOMINATOR,), generator=generator)
    row = [0] * vocab_size
    for choice in drawn.tolist():
        row[int(allowed[choice])] += 1
    return row
