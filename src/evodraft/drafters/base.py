"""The Drafter protocol: who guesses the next token, one step for a batch of rows.

A drafter returns raw logits, or token ids where it chooses without a law. It never draws and never truncates: the
engine makes q with the one `to_law` and draws with keyed noise (X1, X3). It does not know targets or verifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evodraft.runtime.choose import RuntimeOptions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from evodraft.target import Chunk
    from evodraft.types import Update, Versions


@dataclass(frozen=True, slots=True)
class RegisteredDraft:
    """A published draft for the target, as the registry names it."""

    name: str  # hub id, never a path
    method: str  # "model", or a kind of head
    revision: str
    license: str
    is_verified: bool = False
    note: str = ""  # what a user should know before loading it


@dataclass(frozen=True, slots=True)
class DrafterContext:
    """What a drafter may know about the target when it is built."""

    tokenizer: PreTrainedTokenizerBase | None
    vocab_size: int  # columns of the target's laws
    device: torch.device
    dtype: torch.dtype
    bundled_draft: Path | None = None  # a draft model that ships with the target
    registered_drafts: tuple[RegisteredDraft, ...] = ()  # published ones, the preferred first
    trust_remote_code: bool = False
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)


@dataclass(frozen=True, slots=True)
class DrafterPlan:
    """A drafter whose memory is known but not yet taken."""

    bytes_per_token: int  # of cache, for one token of one slot
    make: Callable[[int, int, int | None], Drafter]  # (num_slots, max_length of the target, rows x columns of caches)


@dataclass(frozen=True, slots=True)
class DrafterNeeds:
    """What the target must compute for a drafter."""

    taps: tuple[int, ...] = ()  # layers whose hidden states it feeds on


@dataclass(slots=True)
class DraftRow:
    """One sequence being drafted: committed tokens (read only) and the tokens drawn in this round."""

    slot: int
    committed: Sequence[int]
    drafted: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.committed) + len(self.drafted)

    def tokens_from(self, start: int) -> list[int]:
        """Token ids from an absolute position to the end of the draft."""
        split = len(self.committed)
        if start >= split:
            return self.drafted[start - split :]
        return [*self.committed[start:], *self.drafted]


@dataclass(frozen=True, slots=True)
class DraftStep:
    """What a drafter offers for the next position of each row; exactly one of the two fields is given."""

    logits: torch.Tensor | None = None  # [rows, vocab of the target] raw; impossible ids at -inf
    token_ids: tuple[int | None, ...] | None = None  # [rows] chosen without a law; None = nothing to offer


@dataclass(frozen=True, slots=True)
class CommittedRow:
    """What became of a row's draft."""

    slot: int
    num_confirmed: int  # leading tokens of (committed + drafted) that still stand; the target's own token follows
    taps: Mapping[int, torch.Tensor]  # layer -> [confirmed this round + 1, hidden], the root first


class Drafter(Protocol):
    """Guesses tokens for numbered slots; slots are the engine's, one per running session."""

    needs: DrafterNeeds
    versions: Versions
    max_length: int | None  # tokens per slot that it can look back on; longer sequences are not drafted

    def admit(self, chunks: Sequence[Chunk]) -> None:
        """Sees the next prompt tokens of some slots; the last prompt token comes with the first step."""
        ...

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        """Offers the next token of each row. Catches up first with committed tokens that it has not seen."""
        ...

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        """Learns what was confirmed of the last drafts."""
        ...

    def release(self, slot: int) -> None:
        """Forgets a slot."""
        ...

    def apply(self, update: Update) -> None:
        """Takes a learner's update; called between rounds only (X5)."""
        ...
