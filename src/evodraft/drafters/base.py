"""The Drafter protocol: who guesses the next token, one step for a batch of rows.

A drafter returns raw logits, or token ids where it chooses without a law. It never draws and never truncates: the
engine makes q with the one `to_law` and draws with keyed noise (X1, X3). It does not know targets or verifiers.

A drafter may also have a method `grow` (see `Grow`): it then returns a whole chain or tree of tokens chosen without a
law in one call. And it may have a method `draw` (see `Draw`): it then draws whole chains in one call, as the engine
would and with the engine's noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from evodraft.errors import ConfigError
from evodraft.runtime.choose import RuntimeOptions
from evodraft.runtime.trees import HELD, checked_parents, depths

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from evodraft.drafters.vocabulary import Vocabulary
    from evodraft.target import Chunk
    from evodraft.types import Signals, Update, Versions


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
    target: torch.nn.Module | None = None  # for drafters that share its weights or read its hidden states
    bundled_draft: Path | None = None  # a draft model that ships with the target
    bundled_heads: Mapping[str, Path] = field(default_factory=dict)  # heads that do, by the names of their folders
    registered_drafts: tuple[RegisteredDraft, ...] = ()  # published ones, the preferred first
    trust_remote_code: bool = False
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    vocabulary: Vocabulary | None = None  # the token ids that may be drafted; None = all


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
    """What a drafter offers for the next position of each row: `logits`, or `token_ids`."""

    logits: torch.Tensor | None = None  # [rows, columns] raw; impossible ids at -inf
    token_ids: tuple[int | None, ...] | None = None  # [rows] chosen without a law; None = nothing to offer
    ids: torch.Tensor | None = None  # [columns] int64, ascending, distinct: what each column of `logits` stands for;
    # None = column is id, and there are as many as the target has


@dataclass(frozen=True, slots=True)
class CommittedRow:
    """What became of a row's draft."""

    slot: int
    num_confirmed: int  # leading tokens of (committed + drafted) that still stand; the target's own token follows
    taps: Mapping[int, torch.Tensor]  # layer -> [confirmed this round + 1, hidden], the root first


class Growth(NamedTuple):
    """How far one row may be grown."""

    depth: int  # tokens on one path at most
    num_nodes: int  # tokens at most; equal to `depth`: a chain is enough


class Place(NamedTuple):
    """Where in the batch a node stands whose children are ranked."""

    row: int  # index into the `rows` that are grown
    depth: int  # tokens drafted on the way to it, itself included; 0 = the last committed token


Rank = Callable[["torch.Tensor", "torch.Tensor | None", Sequence[Place]], "torch.Tensor"]
"""Raw logits [nodes, columns], the token id of each column [columns] int64 (None = column is id), the places of the
nodes [nodes] -> float32 log-weights [nodes, columns] by which their children are ranked: log of the very law that
verification will use, plus the noise of the position where the verifier shares it (X15). -inf: never."""


@dataclass(frozen=True, slots=True)
class Grown:
    """A chain or tree of tokens that were chosen without a law.

    Raises ConfigError for what is no tree, and for siblings that are equal.

    >>> Grown(token_ids=(5, 7, 5), parents=(-1, -1, 1)).num_tokens
    3
    """

    token_ids: tuple[int, ...]  # [nodes]
    parents: tuple[int, ...]  # [nodes] as in Draft: ROOT or an earlier node; siblings in the order of trial
    signals: tuple[Signals | None, ...] = ()  # [nodes], or empty

    def __post_init__(self) -> None:
        if self.is_chain:
            return
        checked_parents([self.parents], [self.num_tokens])
        if len(set(zip(self.parents, self.token_ids, strict=True))) < self.num_tokens:
            raise ConfigError(
                f"a drafter grew equal siblings: token ids {self.token_ids} with parents {self.parents}; a token "
                "stands only once below a node; repair the drafter"
            )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether every token follows the one before."""
        return self.parents == tuple(range(HELD, len(self.token_ids) - 1))

    @property
    def depth(self) -> int:
        """Tokens on the longest path."""
        return max(depths(self.parents), default=-1) + 1


class Grow(Protocol):
    """What a drafter's `grow` is called with; optional, looked up once."""

    def __call__(
        self, rows: Sequence[DraftRow], growths: Sequence[Growth], rank: Rank | None, want_signals: bool
    ) -> list[Grown]:
        """Chooses a chain or tree for each row, within its growth. Catches up first, as `step` does.

        Without `rank` all rows are greedy: children are ranked by the raw logits. Leaves `drafted` alone; the tokens
        that stand come with `commit`.
        """
        ...


class Draws(NamedTuple):
    """What the chain of one row is drawn with, settled before the first draw (X2)."""

    temperature: float  # above 0; the law is the softmax at it, with nothing cut off
    key_words: tuple[tuple[int, int], ...]  # [tokens] int32: of the noise of each token, as `hashed_uniform` takes them


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chain, and the very laws it was drawn from (X1)."""

    token_ids: tuple[int, ...]  # as many as were asked for, or fewer where logits are not finite
    q: torch.Tensor  # [tokens, columns] float32
    ids: torch.Tensor | None = None  # [columns] as in DraftStep

    def first(self, num_tokens: int) -> Drawn:
        """Without what stands behind."""
        return Drawn(self.token_ids[:num_tokens], self.q[:num_tokens], self.ids)


class Draw(Protocol):
    """What a drafter's `draw` is called with; optional, looked up once, None where it is not there."""

    def __call__(self, rows: Sequence[DraftRow], draws: Sequence[Draws]) -> list[Drawn | None]:
        """Draws a chain for each row, token by token: the law of its logits, then the race of `HashedStream.draw`.

        None for a row that has to be drafted step by step, of which nothing was drawn. Catches up first, as `step`
        does. Leaves `drafted` alone; the tokens that stand come with `commit`.
        """
        ...


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
