"""Prompt lookup: the text so far is the draft model.

Finds the latest earlier place where the last few tokens stood and offers what followed there. No weights, no law: its
tokens are chosen, so `q` is one-hot. After "prompt lookup decoding" (A. Saxena) and transformers' implementation.
Does not know any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evodraft.config import check_range
from evodraft.drafters.base import CommittedRow, DrafterContext, DrafterNeeds, DrafterPlan, DraftRow, DraftStep
from evodraft.errors import ConfigError
from evodraft.types import Update, Versions

if TYPE_CHECKING:
    from evodraft.target import Chunk


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """Options of prompt lookup."""

    max_ngram: int = 4  # longest run of tokens to match
    min_ngram: int = 2  # shortest run worth a guess

    def __post_init__(self) -> None:
        check_range(self, "max_ngram", 1, 64)
        check_range(self, "min_ngram", 1, 64)
        if self.min_ngram > self.max_ngram:
            raise ConfigError(f"min_ngram={self.min_ngram} exceeds max_ngram={self.max_ngram}; swap or lower it")


def plan_ngram_drafter(config: NgramConfig, context: DrafterContext) -> DrafterPlan:
    """Needs nothing of the target and no cache. Raises ConfigError for a vocabulary, which would do nothing."""
    if context.vocabulary is not None:
        raise ConfigError(
            f"a vocabulary ({context.vocabulary.source}) was named and the drafter is 'ngram', which has no output "
            "matrix; leave vocabulary out, or name a drafter that has one"
        )
    return DrafterPlan(0, lambda num_slots, max_length, cache_tokens: NgramDrafter(config))


@dataclass(slots=True)
class _Index:
    """Where each n-gram of one sequence was last followed by something."""

    num_indexed: int = 0  # tokens whose arrival has been noted
    followers: dict[tuple[int, ...], int] = field(default_factory=dict)  # n-gram -> position after it


class NgramDrafter:
    """Offers the continuation of the longest n-gram that matches, `max_ngram` down to `min_ngram` tokens."""

    needs = DrafterNeeds()
    max_length: int | None = None
    versions = Versions()

    def __init__(self, config: NgramConfig = NgramConfig()) -> None:
        self.config = config
        self._indexes: dict[int, _Index] = {}

    def admit(self, chunks: Sequence[Chunk]) -> None:
        """Nothing to do: the first step indexes the prompt."""

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        return DraftStep(token_ids=tuple(self._offer(row) for row in rows))

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Nothing to do: only committed tokens are ever indexed."""

    def release(self, slot: int) -> None:
        self._indexes.pop(slot, None)

    def apply(self, update: Update) -> None:
        raise ConfigError(f"an update of version {update.versions} arrived, but n-gram drafts have no weights")

    def _offer(self, row: DraftRow) -> int | None:
        index = self._indexes.setdefault(row.slot, _Index())
        self._extend(index, row.committed)
        tail = row.tokens_from(max(0, row.length - self.config.max_ngram))
        for size in range(min(self.config.max_ngram, len(tail)), self.config.min_ngram - 1, -1):
            position = index.followers.get(tuple(tail[-size:]))
            if position is not None:
                return row.committed[position]
        return None

    def _extend(self, index: _Index, committed: Sequence[int]) -> None:
        """Notes for every new token which n-grams it follows."""
        for position in range(max(index.num_indexed, self.config.min_ngram), len(committed)):
            for size in range(self.config.min_ngram, min(self.config.max_ngram, position) + 1):
                index.followers[tuple(committed[position - size : position])] = position
        index.num_indexed = len(committed)
