"""The big model: chunked prefill, and one scoring pass for a batch of drafts.

Adds to a Decoder what exactness needs: laws are made by the one `to_law`, a row of logits is checked before it is
used, and rows of one session never depend on another's parameters. Does not know how a draft was made or what a
verdict will be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evodraft.errors import NumericsError
from evodraft.processors import EagerLaws, GreedyLaws, LazyLaws
from evodraft.runtime.trees import HELD, depths
from evodraft.sampling import to_laws
from evodraft.types import ROOT, Scores

if TYPE_CHECKING:
    from evodraft.runtime.base import Decoder, DecoderOutput
    from evodraft.session import Session
    from evodraft.types import Draft, Laws


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive prompt tokens of one slot."""

    slot: int
    start: int  # position of the first
    token_ids: tuple[int, ...]
    taps: Mapping[int, torch.Tensor]  # layer -> [tokens, hidden], what the target computed on them


@dataclass(slots=True)
class AskedLaws:
    """Laws of one session that are checked when they are asked for, and that remember how far the walk got.

    A row behind a token that is not accepted is never asked for: whatever it holds, plain decoding would not have
    seen it either.
    """

    laws: Laws
    is_sound: list[bool]  # [nodes + 1]
    session: Session
    rescore: Callable[[int, Sequence[int]], None] | None = None  # scores a row again before it is used
    node: int = ROOT  # asked for last
    path: tuple[int, ...] = ()  # token ids from the root to it

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        self.node, self.path = node, tuple(path)
        if self.rescore is not None:
            self.rescore(node, path)
        self._check()
        return self.laws.at(node, path)

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        token_id = None if self.rescore is not None else self.laws.sure(node, path)
        if token_id is not None:
            self.node, self.path = node, tuple(path)
            self._check()
        return token_id

    def _check(self) -> None:
        if not self.is_sound[self.node + 1]:
            raise NumericsError(
                f"the target returned NaN, +inf or no possible token at position "
                f"{len(self.session.token_ids) + len(self.path)} of request {self.session.request.request_id}; "
                "check its weights, or load it with dtype='float32'"
            )


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one session; its laws once more as what they are; taps of the root and the nodes."""

    scores: Scores
    asked: AskedLaws
    taps: Mapping[int, torch.Tensor]  # layer -> [nodes + 1, hidden]
    is_tree: bool = False

    def taps_of(self, path: Sequence[int]) -> dict[int, torch.Tensor]:  # layer -> [accepted + 1, hidden]
        """Taps of the root and of the nodes of an accepted path."""
        if not self.is_tree:
            return {layer: hidden[: len(path) + 1] for layer, hidden in self.taps.items()}
        return {layer: hidden[[0, *(node + 1 for node in path)]] for layer, hidden in self.taps.items()}


class Target:
    """Runs the target decoder for sessions; each session's slot holds all its committed tokens but the last.

    Args:
        decoder: the model.
        vocab_size: ids the tokenizer knows; logits of padding columns beyond it are cut off. None = all columns.
        taps: layers whose hidden states the parts of the engine declared to need.
    """

    def __init__(self, decoder: Decoder, vocab_size: int | None = None, taps: Sequence[int] = ()) -> None:
        self.decoder = decoder
        self.vocab_size = min(vocab_size or decoder.vocab_size, decoder.vocab_size)
        self.taps = tuple(taps)

    def prefill(self, sessions: Sequence[Session], widths: Sequence[int]) -> list[Chunk]:
        """Feeds the next `widths[r]` prompt tokens of each session."""
        pieces = [
            tuple(session.request.token_ids[session.num_prefilled : session.num_prefilled + width])
            for session, width in zip(sessions, widths, strict=True)
        ]
        output = self._forward(pieces, [session.slot for session in sessions], want_logits=False)
        chunks = [
            Chunk(session.slot, session.num_prefilled, piece, _row_taps(output, row, len(piece)))
            for row, (session, piece) in enumerate(zip(sessions, pieces, strict=True))
        ]
        for session, piece in zip(sessions, pieces, strict=True):
            session.num_prefilled += len(piece)
        return chunks

    def score(self, sessions: Sequence[Session], drafts: Sequence[Draft]) -> list[Scored]:
        """One pass over every session's last token and its draft. After a tree, `follow` must come before `keep`."""
        pieces = [(session.token_ids[-1], *draft.token_ids) for session, draft in zip(sessions, drafts, strict=True)]
        output = self._forward(pieces, [session.slot for session in sessions], _parents(drafts), want_logits=True)
        assert output.logits is not None
        logits = output.logits[..., : self.vocab_size]
        # [batch, width]; amax carries NaN along
        is_sound = [[math.isfinite(best) for best in row] for row in logits.amax(dim=-1).tolist()]
        is_greedy = [not s.processors and s.request.params.temperature == 0.0 for s in sessions]
        best = logits.argmax(dim=-1).tolist() if any(is_greedy) else []  # [batch, width]
        is_eager = [not (greedy or s.processors) for greedy, s in zip(is_greedy, sessions, strict=True)]
        params = zip(is_eager, sessions, strict=True)
        laws = to_laws(logits, [s.request.params.law if eager else None for eager, s in params])
        scored = []
        for row, (session, draft, piece) in enumerate(zip(sessions, drafts, pieces, strict=True)):
            rows, taps = logits[row, : len(piece)], _row_taps(output, row, len(piece))
            is_spoiled = len(piece) > 1 and not all(is_sound[row][: len(piece)])
            if is_spoiled or not (is_greedy[row] or is_eager[row]):
                law = session.request.params.law
                found: Laws = LazyLaws(rows, law, session.processors, list(session.token_ids))
            else:
                found = GreedyLaws(rows, best[row]) if is_greedy[row] else EagerLaws(laws[row][: len(piece)])
            asked = AskedLaws(found, is_sound[row], session)
            if is_spoiled:
                asked.rescore = self._stepwise(asked, rows, taps)
            scored.append(Scored(Scores(rows, asked, _ends(session, draft)), asked, taps, not draft.is_chain))
        return scored

    def _stepwise(
        self, asked: AskedLaws, rows: torch.Tensor, taps: Mapping[int, torch.Tensor]
    ) -> Callable[[int, Sequence[int]], None]:
        """Scores a session again, token by token along the accepted path, as plain decoding would.

        A token that makes a model overflow spoils rows before its own, because attention multiplies even masked
        values by zero. Where the target never says it, plain decoding never sees that.
        """
        session = asked.session
        self.keep(session)
        self.decoder.scrub(session.slot)

        def rescore(node: int, path: Sequence[int]) -> None:
            token_id = path[-1] if path else session.token_ids[-1]
            output = self._forward([(token_id,)], [session.slot], want_logits=True)
            assert output.logits is not None
            rows[node + 1] = output.logits[0, 0, : self.vocab_size]
            asked.is_sound[node + 1] = bool(rows[node + 1].amax().isfinite())
            for layer, hidden in output.taps.items():
                taps[layer][node + 1] = hidden[0, 0]

        return rescore

    def follow(self, session: Session, scored: Scored, path: Sequence[int]) -> None:
        """Of a tree, leaves in the cache the root and the accepted nodes, before anything of it is committed."""
        if scored.is_tree and scored.asked.rescore is None:  # what was scored again is in the cache as a chain
            self.decoder.select(session.slot, session.num_cached, [0, *(node + 1 for node in path)])

    def keep(self, session: Session) -> None:
        """Drops from the cache what was not committed."""
        self.decoder.crop(session.slot, session.num_cached)

    def release(self, slot: int) -> None:
        """Empties a slot."""
        self.decoder.release(slot)

    def _forward(
        self,
        pieces: Sequence[Sequence[int]],
        slots: Sequence[int],
        parents: Sequence[Sequence[int]] | None = None,
        *,
        want_logits: bool,
    ) -> DecoderOutput:
        widths = [len(piece) for piece in pieces]
        width = max(widths)
        padded = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces])
        return self.decoder.forward(padded, widths, slots, parents=parents, want_logits=want_logits, taps=self.taps)


def _parents(drafts: Sequence[Draft]) -> list[list[int]] | None:
    """The trees of a pass, roots included; None if all are chains."""
    if all(draft.is_chain for draft in drafts):
        return None
    return [[HELD, *(parent - ROOT for parent in draft.parents)] for draft in drafts]


def _ends(session: Session, draft: Draft) -> frozenset[int]:
    """Nodes whose token ends the request: no law is asked for behind them (X10, X11)."""
    stop_ids = session.request.stop_token_ids
    if stop_ids.isdisjoint(draft.token_ids):
        return frozenset()
    lengths = [session.num_tokens + depth + 1 for depth in depths(draft.parents)]
    tokens = enumerate(zip(draft.token_ids, lengths, strict=True))
    return frozenset(node for node, (token_id, length) in tokens if session.stops_at(token_id, length))


def _row_taps(output: DecoderOutput, row: int, width: int) -> dict[int, torch.Tensor]:
    return {layer: hidden[row, :width] for layer, hidden in output.taps.items()}
