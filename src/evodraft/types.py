"""The nouns that travel along the line: Request, Plan, Draft, Scores, Verdict, Feedback, Update, Completion.

All are frozen; shapes stand in comments. This module knows no model, no tokenizer and no algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from evodraft.errors import EvodraftError
    from evodraft.params import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]
LogitsProcessor = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Called as in transformers: (input_ids [1, n], scores [1, vocab]) -> scores [1, vocab]."""
StopCheck = Callable[[Sequence[int]], bool]
"""Called once per committed token with all token ids of the sequence, prompt included; True ends the request there."""

ROOT = -1
"""Parent of the first draft token: the last committed token."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate. Processors and checks may hold state: they belong to this request alone."""

    request_id: str
    token_ids: tuple[int, ...]  # the prompt
    params: SamplingParams
    seed: int
    sample_index: int = 0  # which of the `n` samples of one prompt
    speculative: bool = True
    is_seed_chosen: bool = False  # the caller named the seed and may expect to see the same tokens again
    stop_token_ids: frozenset[int] = frozenset()  # EOS and stop ids; the hit is committed but not part of the output
    stop_checks: tuple[StopCheck, ...] = ()  # stop strings and user criteria, asked in order
    logits_processors: tuple[LogitsProcessor, ...] = ()
    scope: str = "shared"  # who may learn from it: shared, a tenant's name, or "off" for nobody


class Signals(NamedTuple):
    """What a controller may know about a drawn token, from the RAW draft law (temperature 1, nothing cut off)."""

    entropy_nats: float
    top1: float  # probability of the most likely token
    margin: float  # top1 minus the second probability
    probability: float  # of the drawn token


@dataclass(frozen=True, slots=True)
class Plan:
    """What one session may spend on drafting in this round."""

    width: int  # draft tokens on one path at most; 0 = plain decoding
    num_nodes: int | None = None  # nodes of a tree at most; None = a chain


class Versions(NamedTuple):
    """State of a drafter when a draft was drawn (X5)."""

    weights: int = 0
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens of one session: a chain, or a tree by `parents` (a parent stands before its children)."""

    token_ids: tuple[int, ...]  # [nodes]
    parents: tuple[int, ...]  # [nodes]; ROOT or the index of an earlier node
    q: torch.Tensor | None  # [nodes, vocab] float32: the law each token was drawn from; None = chosen, i.e. one-hot
    signals: tuple[Signals | None, ...] = ()  # [nodes]; None where the drafter has no law
    versions: Versions = Versions()

    @classmethod
    def chain(
        cls,
        token_ids: Sequence[int],
        q: torch.Tensor | None = None,
        signals: Sequence[Signals | None] = (),
        versions: Versions = Versions(),
    ) -> Draft:
        """A draft in which every token follows the one before.

        >>> Draft.chain([5, 7]).parents
        (-1, 0)
        """
        return cls(tuple(token_ids), tuple(range(ROOT, len(token_ids) - 1)), q, tuple(signals), versions)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether every token follows the one before."""
        return self.parents == tuple(range(ROOT, len(self.parents) - 1))

    def child(self, node: int, token_id: int) -> int | None:
        """The node of `token_id` below `node`, if there is one."""
        return next((child for child in self.children(node) if self.token_ids[child] == token_id), None)

    def drawn_with(self) -> list[float]:  # [nodes]
        """The probability with which each token was drawn; 1.0 of chosen ones."""
        if self.q is None:
            return [1.0] * self.num_tokens
        return self.q[range(self.num_tokens), list(self.token_ids)].tolist()

    def children(self, node: int) -> list[int]:
        """Nodes whose parent is `node`, in the order in which they are tried."""
        return [index for index, parent in enumerate(self.parents) if parent == node]

    def path_to(self, node: int) -> tuple[int, ...]:
        """Nodes from the root's child down to `node`; empty for ROOT."""
        path: list[int] = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return tuple(reversed(path))


class Laws(Protocol):
    """Target laws of one draft, after processors and truncation."""

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        """Law [vocab] of the token after `node`; `path` = draft token ids from the root to `node`, all accepted.

        Asked at most once per node and only along the accepted path, so that stateful processors see exactly the
        calls of plain decoding (X10).
        """
        ...

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        """The one token that can follow `node`, where that is known without a law; asked before `at`, and instead of
        it unless None comes back."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """The target's opinion on one draft; row 0 follows the root, row i + 1 follows node i."""

    logits: torch.Tensor  # [nodes + 1, vocab] raw
    laws: Laws
    ends: frozenset[int] = frozenset()  # nodes that nothing follows, because the text ends there


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of one draft."""

    path: tuple[int, ...]  # accepted nodes, from the root downwards
    token_ids: tuple[int, ...]  # what to commit: the accepted tokens, then the target's own
    num_fallbacks: int = 0  # residuals that vanished in floating point (X8)

    @property
    def num_accepted(self) -> int:
        return len(self.path)


@dataclass(frozen=True, slots=True)
class Commit:
    """What really became of a verdict after stop conditions cut it (X11)."""

    token_ids: tuple[int, ...]  # appended to the sequence, a stop token included
    num_accepted: int  # of these, how many came from the draft
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that one engine step spent; shared by all sessions of its batch."""

    draft: float = 0.0
    score: float = 0.0
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class Feedback:
    """One round of one session, for everybody who learns. Rounds without a draft are published too."""

    request_id: str
    scope: str
    draft: Draft
    verdict: Verdict
    commit: Commit
    is_stale: bool  # the drafter changed after this draft was drawn (X5)
    timings: Timings
    logits: torch.Tensor | None = None  # [rows, vocab] raw target logits, only where a learner needs them


@dataclass(frozen=True, slots=True)
class Update:
    """New state for the drafter, made by a learner and applied between rounds."""

    versions: Versions
    payload: object  # what the drafter's `apply` understands


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Counters of one request. Definitions: docs/glossary.md."""

    num_prompt_tokens: int
    num_tokens: int  # committed
    num_target_passes: int  # after prefill
    num_rounds: int  # passes that carried at least one draft token
    num_draft_tokens: int  # proposed
    num_accepted_tokens: int
    num_round_tokens: int  # committed in rounds
    accepted_per_position: tuple[int, ...] = ()
    num_fallbacks: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Committed tokens per round, bonus included; plain decoding = 1.00."""
        return self.num_round_tokens / self.num_rounds if self.num_rounds else 1.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted / proposed draft tokens, bonus excluded; 0.0 if nothing was proposed."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else 0.0

    @property
    def tokens_per_target_pass(self) -> float:
        """Committed tokens / target passes after prefill."""
        return self.num_tokens / self.num_target_passes if self.num_target_passes else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Committed tokens / seconds of decoding (prefill excluded)."""
        return self.num_tokens / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Raw log-probability (nats, temperature 1, no processors) of one output token and its strongest rivals."""

    token_id: int
    logprob: float
    top: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of a request."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]  # EOS and stop ids excluded
    finish_reason: FinishReason
    exact: bool  # False: the verifier was allowed to change the output law
    stats: GenerationStats
    seed: int
    prompt_token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    error: EvodraftError | None = None
    samples: tuple[Completion, ...] = ()  # all `n` samples of the prompt, if more than one was asked for

    @classmethod
    def refused(cls, request: Request, error: EvodraftError | None) -> Completion:
        """What comes back for a request that was not admitted."""
        stats = GenerationStats(len(request.token_ids), 0, 0, 0, 0, 0, 0)
        return cls(request.request_id, "", (), "error", True, stats, request.seed, request.token_ids, error=error)

    def raise_for_error(self) -> Completion:
        """Returns itself, or raises the error that ended this request."""
        if self.error is not None:
            raise self.error
        return self


class Piece(NamedTuple):
    """A step of a stream: what may be shown now."""

    text: str
    token_ids: tuple[int, ...]
    num_accepted: int = 0  # of token_ids, how many came from the draft
    completion: Completion | None = None  # with the last piece
