"""The loop. A Request becomes a Session; each round drafts, scores, verifies and commits; everybody learns from it.

The engine knows nothing about tokenization, text or model files. One request's fault ends that request alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evodraft.admission import Admission
from evodraft.config import EngineConfig
from evodraft.drafters.base import CommittedRow
from evodraft.drafting import DraftRound
from evodraft.errors import EvodraftError, PromptError, RequestError, SamplingError
from evodraft.exhaustion import within_memory
from evodraft.metrics import Metrics
from evodraft.sampling import HashedStream
from evodraft.session import Session
from evodraft.types import Draft, Feedback, Plan, Timings, Verdict
from evodraft.verifiers.base import Case

if TYPE_CHECKING:
    from evodraft.controllers.base import Controller
    from evodraft.drafters.base import Drafter
    from evodraft.learners.base import Learner
    from evodraft.sampling import RandomStream
    from evodraft.target import Chunk, Scored, Target
    from evodraft.types import Commit, Request
    from evodraft.verifiers.base import Verifier

Clock = Callable[[], float]
"""Seconds that only go forward; injected so that tests can replay decisions that depend on time."""


@dataclass(slots=True)
class _Feed:
    """What one session is fed of its prompt in one step."""

    session: Session
    width: int
    chunk: Chunk | None = None


@dataclass(slots=True)
class _Round:
    """What one session goes through in one step, filled from left to right."""

    session: Session
    plan: Plan = Plan(width=0)
    draft: Draft = Draft.chain([])
    scored: Scored | None = None
    verdict: Verdict | None = None
    error: EvodraftError | None = None  # why the verdict ends early
    commit: Commit | None = None


class Engine:
    """Runs a batch of sessions, each with its own parameters, noise, controller state and stop rules.

    Args:
        target: the model whose law is kept.
        verifier: decides what of a draft stands.
        drafter: guesses; None = plain decoding.
        controller: decides how much is guessed; required with a drafter.
        learners: see every Feedback and may hand out Updates between rounds.
        config: limits.
        stream: where random choices come from.
        clock: where time comes from.
        cache_tokens: what the caches may hold, rows x columns; sessions that do not fit together take turns. None =
            every slot may be as long as the decoder allows.
    """

    def __init__(
        self,
        target: Target,
        verifier: Verifier,
        drafter: Drafter | None = None,
        controller: Controller | None = None,
        learners: Sequence[Learner] = (),
        config: EngineConfig = EngineConfig(),
        stream: RandomStream = HashedStream(),
        clock: Clock = time.perf_counter,
        cache_tokens: int | None = None,
    ) -> None:
        assert (drafter is None) == (controller is None), "a drafter needs a controller, and the other way round"
        self.target = target
        self.verifier = verifier
        self.drafter = drafter
        self.controller = controller
        self.learners = tuple(learners)
        self.config = config
        self.cache_tokens = cache_tokens
        self.metrics = Metrics()
        self._stream = stream
        self._clock = clock
        self._waiting: deque[Session] = deque()
        self._running: list[Session] = []
        self._admission = Admission(min(config.max_batch, target.decoder.num_slots), cache_tokens)
        limits = (target.decoder.max_length, cache_tokens)
        self._max_length = min(limit for limit in limits if limit is not None)
        self._live_ids: set[str] = set()
        self._is_in_round = False
        self._drawing = (
            DraftRound(drafter, controller, verifier, stream, self._give_up, target.vocab_size)
            if drafter is not None and controller is not None
            else None
        )
        self._keeps_logits = any(learner.needs.target_logits for learner in self.learners)

    # --- the way of a request -------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Session:
        """Checks a request and puts it in line; its session moves on with every `step`.

        Raises a RequestError, and nothing else changes.
        """
        self._check(request)
        if request.request_id in self._live_ids:
            raise RequestError(f"request id {request.request_id!r} is running already; give every request its own id")
        session = Session(request)
        self._waiting.append(session)
        self._live_ids.add(request.request_id)
        return session

    def cancel(self, *sessions: Session) -> None:
        """Ends sessions before the next round; what they committed stays. Finished ones are left alone.

        Code of the caller that runs inside a round (stop checks, processors) may call it too: the round ends first.
        """
        running = [session for session in sessions if not session.is_finished]
        for session in running:
            session.cancel()
        if running:
            self._clear_line()
            if not self._is_in_round:
                self._retire()

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> None:
        """One round for every running session, and prompt chunks for those that are being admitted.

        If a part raises what is not a request's fault, the error goes to the caller, and every cache holds what is
        committed again: before the commit, the next step repeats the round; after it, the round stands.
        """
        self._is_in_round = True
        try:
            self._round()
        except BaseException:
            self._take_back()
            raise
        finally:
            self._is_in_round = False

    # --- the verbs ------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        self._admit()
        rounds = [_Round(session) for session in self._running if session.num_to_prefill == 0]
        started = self._clock()
        for item in rounds:
            item.session.begin(started)
        self._plan(rounds)
        self._draft(rounds)
        drafted = self._clock()
        self._score(rounds)
        timings = Timings(drafted - started, self._clock() - drafted, len(rounds))
        self._verify(rounds)
        self._commit(rounds)
        committed = self._clock()
        self._publish(rounds, timings)
        self._apply_updates()
        self.metrics.spend(timings, self._clock() - committed)
        self._retire()

    def _admit(self) -> None:
        """First come first served: who does not fit yet is not overtaken, and so comes to run."""
        while self._waiting:
            session = self._waiting[0]
            slot = self._admission.take(session.num_prompt_tokens + session.request.params.max_new_tokens)
            if slot is None:
                break
            session.slot = slot
            self._running.append(self._waiting.popleft())
            if self.controller is not None:
                self.controller.start(session.request.request_id)
        self._prefill()

    def _prefill(self) -> None:
        """Feeds at most `prefill_budget` prompt tokens, first come first served."""
        budget, feeds = self.config.prefill_budget, []
        for session in self._running:
            width = min(session.num_to_prefill, budget)
            if width > 0:
                feeds.append(_Feed(session, width))
                budget -= width
        if not feeds:
            return
        started = self._clock()
        within_memory(feeds, self._feed_target, self._give_up)
        if self.drafter is not None:
            drafting = [feed for feed in feeds if feed.session.request.speculative]
            within_memory(drafting, self._feed_drafter, self._give_up)
        elapsed = self._clock() - started
        self.metrics.prefill_s += elapsed
        for feed in feeds:
            feed.session.prefill_s += elapsed

    def _feed_target(self, feeds: Sequence[_Feed]) -> None:
        chunks = self.target.prefill([feed.session for feed in feeds], [feed.width for feed in feeds])
        for feed, chunk in zip(feeds, chunks, strict=True):
            feed.chunk = chunk

    def _feed_drafter(self, feeds: Sequence[_Feed]) -> None:
        assert self.drafter is not None
        self.drafter.admit([feed.chunk for feed in feeds if feed.chunk is not None])

    def _plan(self, rounds: list[_Round]) -> None:
        if self.controller is None:
            return
        for item in rounds:
            if item.session.request.speculative:
                item.plan = self._cut(self.controller.plan(item.session.request.request_id), item.session)

    def _draft(self, rounds: list[_Round]) -> None:
        if self._drawing is None:
            return
        drafts = self._drawing.draw([item.session for item in rounds], [item.plan for item in rounds])
        for item, draft in zip(rounds, drafts, strict=True):
            item.draft = draft
        rounds[:] = [item for item in rounds if item.session.error is None]  # the others were given up

    def _score(self, rounds: list[_Round]) -> None:
        within_memory(rounds, self._score_all, self._give_up)

    def _score_all(self, rounds: Sequence[_Round]) -> None:
        scored = self.target.score([item.session for item in rounds], [item.draft for item in rounds])
        for item, result in zip(rounds, scored, strict=True):
            item.scored = result

    def _verify(self, rounds: list[_Round]) -> None:
        """A fault beyond the first token ends the verdict there: a stop condition before it may make it irrelevant."""
        for item in rounds:
            session = item.session
            assert item.scored is not None
            case = Case(session.request, session.keys, len(session.token_ids), item.draft, item.scored.scores)
            try:
                item.verdict = self.verifier.verify(case, self._stream)
            except EvodraftError as error:
                asked = item.scored.asked
                item.verdict = Verdict(item.draft.path_to(asked.node), asked.path)
                item.error = error

    def _commit(self, rounds: list[_Round]) -> None:
        confirmed = []
        now = self._clock()
        for item in rounds:
            session, scored = item.session, item.scored
            assert item.verdict is not None and scored is not None
            num_before = len(session.token_ids)
            self.target.follow(session, scored, item.verdict.path)
            try:
                item.commit = session.commit(item.draft, item.verdict, scored.scores.logits, now)
            except EvodraftError as error:
                item.commit = session.commits[-1]
                item.error = error
            if item.error is not None and not session.is_finished:
                self._fail(session, item.error)
            if not session.is_finished:
                self.target.keep(session)
                kept = item.commit.num_accepted
                taps = scored.taps_of(item.verdict.path[:kept])
                confirmed.append(CommittedRow(session.slot, num_before + kept, taps))
        if self.drafter is not None:
            self.drafter.commit(confirmed)

    def _publish(self, rounds: list[_Round], timings: Timings) -> None:
        for item in rounds:
            assert item.commit is not None and item.verdict is not None and item.scored is not None
            feedback = Feedback(
                request_id=item.session.request.request_id,
                scope=item.session.request.scope,
                draft=item.draft,
                verdict=item.verdict,
                commit=item.commit,
                is_stale=self.drafter is not None and item.draft.versions != self.drafter.versions,
                timings=timings,
                logits=item.scored.scores.logits if self._keeps_logits else None,
            )
            self.metrics.observe(feedback)
            if self.controller is not None:
                self.controller.observe(feedback)
            for learner in self.learners if feedback.scope != "off" else ():
                learner.observe(feedback)

    def _apply_updates(self) -> None:
        for learner in self.learners:
            update = learner.step(self.config.learner_budget_ms)
            if update is not None and self.drafter is not None:
                self.drafter.apply(update)

    def _retire(self) -> None:
        """Takes finished sessions out and frees what they held."""
        for session in [session for session in self._running if session.is_finished]:
            self._end(session)

    def _end(self, session: Session) -> None:
        self._running.remove(session)
        self._live_ids.discard(session.request.request_id)
        self._admission.free(session.slot)
        self.target.release(session.slot)
        if self.drafter is not None:
            self.drafter.release(session.slot)
        if self.controller is not None:
            self.controller.finish(session.request.request_id)

    def _clear_line(self) -> None:
        """Sends finished sessions away that never ran."""
        self._live_ids -= {session.request.request_id for session in self._waiting if session.is_finished}
        self._waiting = deque(session for session in self._waiting if not session.is_finished)

    # --- what went wrong ------------------------------------------------------------------------------------------

    def _fail(self, session: Session, error: EvodraftError) -> None:
        session.fail(error)
        self.metrics.num_failed_requests += 1

    def _give_up(self, session: Session, error: EvodraftError) -> None:
        """Ends a session in the middle of a step; the target holds of all others what it held before."""
        self._fail(session, error)
        self._end(session)
        for other in self._running:
            self.target.keep(other)

    def _take_back(self) -> None:
        """Caches hold what is committed again, whatever an interrupted round left in them."""
        self._retire()
        for session in self._running:
            self.target.keep(session)
        if self.drafter is not None:
            self.drafter.commit([CommittedRow(session.slot, session.num_cached, {}) for session in self._running])

    # --- checks ---------------------------------------------------------------------------------------------------

    def _check(self, request: Request) -> None:
        prompt, limit = request.token_ids, self._max_length
        if not prompt:
            raise PromptError("the prompt has 0 tokens and at least 1 is needed; start it with the BOS token or a word")
        wrong = [i for i in prompt if not 0 <= i < self.target.vocab_size]
        if wrong:
            raise PromptError(
                f"token id {wrong[0]} is outside the vocabulary 0 .. {self.target.vocab_size - 1}; "
                "was the prompt encoded with another model's tokenizer?"
            )
        if len(prompt) >= limit:
            raise PromptError(
                f"the prompt has {len(prompt)} tokens, but sequences are limited to {limit}; "
                "shorten the prompt or raise max_model_len (and kv_cache_gib, if memory is the limit)"
            )
        stops = [i for i in request.params.stop_token_ids if i >= self.target.vocab_size]
        if stops:
            raise SamplingError(
                f"stop_token_ids entry {stops[0]} is outside the vocabulary 0 .. {self.target.vocab_size - 1}; "
                "leave it out"
            )
        biased = [i for i in request.params.logit_bias if i >= self.target.vocab_size]
        if biased:
            raise SamplingError(
                f"logit_bias key {biased[0]} is outside the vocabulary 0 .. {self.target.vocab_size - 1}"
            )
        wanted = request.params.max_new_tokens
        if len(prompt) + wanted > limit:
            raise SamplingError(
                f"max_new_tokens={wanted} after a prompt of {len(prompt)} tokens exceeds the limit of {limit} tokens "
                f"per sequence; use max_new_tokens <= {limit - len(prompt)} or raise max_model_len "
                "(and kv_cache_gib, if memory is the limit)"
            )

    def _cut(self, plan: Plan, session: Session) -> Plan:
        """A plan within what can be of use (the pass itself yields one token more than it accepts) and what fits."""
        assert self.drafter is not None
        num_held, most = len(session.token_ids), self.drafter.max_length
        num_columns = min(self.target.decoder.max_length, self._admission.num_columns or self._max_length)
        room = num_columns - num_held if most is None else min(num_columns, most) - num_held
        width = max(0, min(plan.width, session.num_remaining - 1, room))
        num_nodes = None if plan.num_nodes is None else max(width, min(plan.num_nodes, room))
        return plan if (width, num_nodes) == (plan.width, plan.num_nodes) else Plan(width, num_nodes)
