"""One round of drafting for a batch: ask the controller, step the drafter, make q, draw, repeat; or let it grow.

The one place where draft tokens are drawn, so that X1 to X3 hold for every drafter and controller: a token is drawn
from the very law that is handed to the verifier, and whether a position is drawn at all is settled before its draw.
What a drafter grows was chosen, not drawn: it has no law, and may be cut afterwards. What it draws by itself it draws
from the law and with the noise it is told. Does not know targets or verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.controllers.base import Progress
from evodraft.drafters.base import DraftRow, DraftStep, Drawn, Draws, Grown, Growth
from evodraft.errors import ConfigError
from evodraft.exhaustion import within_memory
from evodraft.params import LawParams
from evodraft.runtime.trees import depths
from evodraft.sampling import raw_signals, to_law, to_laws
from evodraft.types import ROOT, Draft, Signals

if TYPE_CHECKING:
    from evodraft.controllers.base import Controller
    from evodraft.drafters.base import Drafter, Draw, Grow, Place
    from evodraft.exhaustion import GiveUp
    from evodraft.sampling import KeyWords, NoiseKey, RandomStream
    from evodraft.session import Session
    from evodraft.types import Plan, Versions
    from evodraft.verifiers.base import Verifier


class _Law(NamedTuple):
    """What a token was drawn from."""

    q: torch.Tensor  # [columns]
    ids: torch.Tensor | None  # [columns] the token of each column; None = column is id


class _Token(NamedTuple):
    """A token of a draft."""

    token_id: int
    law: _Law | None = None  # None = chosen
    signals: Signals | None = None


@dataclass(slots=True)
class _Row:
    session: Session
    draft: DraftRow
    progress: Progress
    laws: list[_Law | None] = field(default_factory=list)  # of the drawn tokens; None = chosen
    ahead: list[_Token] | None = None  # of what was grown, the last first: not taken yet; None = step by step
    tree: Grown | None = None
    drawn: Drawn | None = None  # by the drafter

    @property
    def is_greedy(self) -> bool:
        return self.session.request.params.temperature == 0.0

    @property
    def has_plain_law(self) -> bool:
        """Whether q is a softmax with nothing cut off."""
        law = self.session.request.params.law
        return law.temperature > 0.0 and law == LawParams(law.temperature)

    @property
    def is_open(self) -> bool:
        """Whether another token may follow: not after a stop token that ends the request."""
        drafted, session = self.draft.drafted, self.session
        return not drafted or not session.stops_at(drafted[-1], session.num_tokens + len(drafted))

    @property
    def growth(self) -> Growth:
        plan = self.progress.plan
        return Growth(plan.width, plan.width if plan.num_nodes is None else plan.num_nodes)

    def append(self, token: _Token) -> None:
        self.draft.drafted.append(token.token_id)
        self.progress.signals.append(token.signals)
        self.laws.append(token.law)

    def finish(self, versions: Versions, vocab_size: int) -> Draft:
        if self.tree is not None:
            signals = self.tree.signals or (None,) * self.tree.num_tokens
            return Draft(self.tree.token_ids, self.tree.parents, None, signals, versions)
        if self.drawn is not None:
            token_ids = self.drawn.token_ids
            q = _on_all_ids(self.drawn.q, self.drawn.ids, vocab_size) if token_ids else None
            return Draft.chain(token_ids, q, (None,) * len(token_ids), versions)
        q = _full_laws(self.draft.drafted, self.laws, vocab_size)
        return Draft.chain(self.draft.drafted, q, self.progress.signals, versions)


@dataclass(frozen=True, slots=True)
class DraftRound:
    """Draws drafts with one drafter, under one controller, with the noise that the verifier asks for.

    A session whose row does not fit into memory is given up; what the others have drawn stays drawn (X2, X14).
    """

    drafter: Drafter
    controller: Controller
    verifier: Verifier
    stream: RandomStream
    give_up: GiveUp
    vocab_size: int  # of the target

    def draw(self, sessions: Sequence[Session], plans: Sequence[Plan]) -> list[Draft]:
        """A draft per session, empty where the plan or the controller says so or the drafter has nothing."""
        rows = [
            _Row(session, DraftRow(session.slot, session.token_ids), Progress(session.request.request_id, plan))
            for session, plan in zip(sessions, plans, strict=True)
        ]
        active = self._allowed([row for row in rows if row.progress.plan.width > 0])
        grow: Grow | None = getattr(self.drafter, "grow", None)
        if grow is not None:
            self._grow([row for row in active if row.is_greedy or row.progress.plan.num_nodes is not None], grow)
        draw: Draw | None = getattr(self.drafter, "draw", None)
        key_words: KeyWords | None = getattr(self.stream, "key_words", None)
        if draw is not None and key_words is not None and not self.controller.needs_signals:
            self._draw_ahead([row for row in active if row.ahead is None and row.has_plain_law], draw, key_words)
        while active:
            active = self._allowed(self._longer(active))
        versions = self.drafter.versions
        return [row.finish(versions, self.vocab_size) for row in rows]

    def _allowed(self, rows: list[_Row]) -> list[_Row]:
        rows = [row for row in rows if row.is_open]
        if not rows:
            return []
        mask = self.controller.more([row.progress for row in rows])
        return [row for row, is_allowed in zip(rows, mask, strict=True) if is_allowed]

    def _longer(self, rows: list[_Row]) -> list[_Row]:
        """Adds a token to each row; rows without an offer end their draft here and are left out."""
        stepping = [row for row in rows if row.ahead is None]
        taken = [row for row in rows if row.ahead]
        for row in taken:
            assert row.ahead is not None
            row.append(row.ahead.pop())
        step = within_memory(stepping, self._step, self.give_up)
        if step is None:
            return taken
        return taken + (self._choose(stepping, step) if step.logits is None else self._sample(stepping, step))

    def _step(self, rows: Sequence[_Row]) -> DraftStep:
        return self.drafter.step([row.draft for row in rows])

    def _choose(self, rows: list[_Row], step: DraftStep) -> list[_Row]:
        """Takes tokens chosen without a law; rows without an offer end their draft here."""
        assert step.token_ids is not None
        going_on = []
        for row, token_id in zip(rows, step.token_ids, strict=True):
            if token_id is not None:
                row.append(_Token(token_id))
                going_on.append(row)
        return going_on

    def _sample(self, rows: list[_Row], step: DraftStep) -> list[_Row]:
        """Draws from q; a row whose logits are not usable ends its draft before the draw."""
        logits = step.logits  # [rows, columns]
        assert logits is not None
        is_sound = [math.isfinite(best) for best in logits.amax(dim=-1).tolist()]
        if not all(is_sound):
            rows = [row for row, sound in zip(rows, is_sound, strict=True) if sound]
            logits = logits[torch.tensor(is_sound, device=logits.device)]
        if not rows:
            return []
        q, columns = self._drawn(rows, logits, step.ids)
        token_ids: list[int] = (columns if step.ids is None else step.ids[columns]).tolist()
        signals: Sequence[Signals | None] = (
            raw_signals(logits, columns) if self.controller.needs_signals else [None] * len(rows)
        )
        laws = [None] * len(rows) if q is None else [_Law(law, step.ids) for law in q]
        for row, token in zip(rows, map(_Token, token_ids, laws, signals), strict=True):
            row.append(token)
        return rows

    def _drawn(
        self, rows: Sequence[_Row], logits: torch.Tensor, ids: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:  # [rows, columns], [columns] -> q [rows, columns], columns [rows]
        if all(row.is_greedy for row in rows):
            return None, logits.argmax(dim=-1)  # the one-hot law, without the law (X1)
        params = [row.session.request.params.law for row in rows]
        if all(law == params[0] for law in params):
            q = to_law(logits, params[0])
        else:
            laws = to_laws(logits, params)
            q = torch.stack([laws[index] for index in range(len(rows))])
        keys = [self.verifier.draft_key(row.session.request, row.session.keys, row.draft.length) for row in rows]
        return q, self.stream.draw(q, keys, ids)

    # --- drawing by the drafter -----------------------------------------------------------------------------------

    def _draw_ahead(self, rows: list[_Row], draw: Draw, key_words: KeyWords) -> None:
        """Lets the drafter draw whole chains, of which all is settled before the first draw. Rows that it leaves out go
        on step by step."""
        settled = [self._settled(row, count, key_words) for row, count in zip(rows, self._counts(rows), strict=True)]
        for row in rows:
            row.ahead = []

        def run(rows: Sequence[_Row]) -> list[Drawn | None]:
            return draw([row.draft for row in rows], settled[: len(rows)])

        found = within_memory(rows, run, self.give_up) or []
        for row, drawn in zip(rows, found, strict=True):
            if drawn is None:
                row.ahead = None
            else:
                row.drawn = _cut_behind_stop(row.session, drawn)

    def _counts(self, rows: Sequence[_Row]) -> list[int]:
        """How many tokens each row may draw, the one that was allowed already among them. Between the draws nobody
        would learn anything but that there was one more, so the controller can be asked before."""
        known = [Progress(row.progress.request_id, row.progress.plan, [None]) for row in rows]
        growing = known
        while growing := [progress for progress in growing if progress.num_drawn < progress.plan.width]:
            mask = self.controller.more(growing)
            growing = [progress for progress, is_allowed in zip(growing, mask, strict=True) if is_allowed]
            for progress in growing:
                progress.signals.append(None)
        return [progress.num_drawn for progress in known]

    def _settled(self, row: _Row, count: int, key_words: KeyWords) -> Draws:
        request, start = row.session.request, row.draft.length
        keys = [self.verifier.draft_key(request, row.session.keys, start + number) for number in range(count)]
        return Draws(request.params.temperature, tuple(key_words(keys)))

    # --- growing --------------------------------------------------------------------------------------------------

    def _grow(self, rows: list[_Row], grow: Grow) -> None:
        """Lets the drafter choose a tree, or all tokens of a chain, for each row."""
        for row in rows:
            row.ahead = []

        def run(rows: Sequence[_Row]) -> list[Grown]:
            is_greedy = all(row.is_greedy for row in rows)
            rank = None if is_greedy else _Ranking([row.session for row in rows], self.verifier, self.stream)
            growths = [row.growth for row in rows]
            return grow([row.draft for row in rows], growths, rank, self.controller.needs_signals)

        grown = within_memory(rows, run, self.give_up) or []
        for row, result in zip(rows, grown, strict=True):
            _check(result, row)
            if row.progress.plan.num_nodes is not None:
                row.tree = _cut_at_stops(row.session, result)
                continue
            signals = result.signals or [None] * result.num_tokens
            row.ahead = [_Token(*pair) for pair in zip(result.token_ids, [None] * len(signals), signals, strict=True)]
            row.ahead.reverse()


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The Rank of a batch of sessions."""

    sessions: Sequence[Session]
    verifier: Verifier
    stream: RandomStream

    def __call__(
        self, logits: torch.Tensor, ids: torch.Tensor | None, places: Sequence[Place]
    ) -> torch.Tensor:  # [nodes, columns], [columns] -> [nodes, columns]
        params = [_ranking_law(self.sessions[place.row]) for place in places]
        laws = to_laws(logits, params)
        weights = torch.stack([laws[node] for node in range(len(places))]).log_()
        keys = [self._shared_key(place) for place in places]
        coupled = [node for node, key in enumerate(keys) if key is not None]
        if coupled:
            noise = self.stream.noise([key for key in keys if key is not None], logits, ids)
            weights[coupled] -= noise.log_()
        return weights

    def _shared_key(self, place: Place) -> NoiseKey | None:
        """The noise of the children's position, where the target's own draw will use it (X15)."""
        session = self.sessions[place.row]
        if session.request.params.temperature == 0.0:
            return None
        position = len(session.token_ids) + place.depth
        key = self.verifier.draft_key(session.request, session.keys, position)
        return key if key.purpose == "coupled" else None


def _ranking_law(session: Session) -> LawParams:
    """A greedy law is one-hot and ranks nobody but the first: there the raw law does."""
    law = session.request.params.law
    return LawParams(temperature=1.0) if law.temperature == 0.0 else law


def _check(grown: Grown, row: _Row) -> None:
    growth, is_chain = row.growth, row.progress.plan.num_nodes is None
    if grown.num_tokens > growth.num_nodes or grown.depth > growth.depth or (is_chain and not grown.is_chain):
        raise ConfigError(
            f"a drafter grew {grown.num_tokens} tokens of depth {grown.depth} (parents {grown.parents}) where "
            f"{growth.num_nodes} of depth {growth.depth} were the limit{', in a chain' if is_chain else ''}; "
            "repair the drafter"
        )


def _cut_at_stops(session: Session, grown: Grown) -> Grown:
    """Without what stands below a token that ends the request."""
    if session.request.stop_token_ids.isdisjoint(grown.token_ids):
        return grown
    number = {ROOT: ROOT}  # of a node, among those that stay; what ends the request is not a parent
    kept: list[int] = []
    for node, depth in enumerate(depths(grown.parents)):
        if grown.parents[node] not in number:
            continue
        if not session.stops_at(grown.token_ids[node], session.num_tokens + depth + 1):
            number[node] = len(kept)
        kept.append(node)
    return Grown(
        tuple(grown.token_ids[node] for node in kept),
        tuple(number[grown.parents[node]] for node in kept),
        tuple(grown.signals[node] for node in kept) if grown.signals else (),
    )


def _cut_behind_stop(session: Session, drawn: Drawn) -> Drawn:
    """Without what stands behind a token that ends the request; that one was known before what it ends (X2)."""
    for number, token_id in enumerate(drawn.token_ids, start=1):
        if session.stops_at(token_id, session.num_tokens + number):
            return drawn.first(number)
    return drawn


def _full_laws(
    token_ids: Sequence[int], laws: Sequence[_Law | None], vocab_size: int
) -> torch.Tensor | None:  # [tokens, vocab]
    """Laws of drawn tokens, zero outside of a slice and one-hot for a choice among them; None if all were chosen."""
    drawn = [law for law in laws if law is not None]
    if not drawn:
        return None
    ids = drawn[0].ids
    if len(drawn) == len(laws) and all(law.ids is ids for law in drawn):
        q = torch.stack([law.q for law in drawn])
        return _on_all_ids(q, ids, vocab_size)
    full = drawn[0].q.new_zeros(len(laws), vocab_size)
    for row, token_id, law in zip(full, token_ids, laws, strict=True):
        if law is None:
            row[token_id] = 1.0
        else:
            row[slice(None) if law.ids is None else law.ids] = law.q
    return full


def _on_all_ids(
    q: torch.Tensor, ids: torch.Tensor | None, vocab_size: int
) -> torch.Tensor:  # [tokens, columns], [columns] -> [tokens, vocab]
    return q if ids is None else q.new_zeros(len(q), vocab_size).index_copy_(1, ids, q)
