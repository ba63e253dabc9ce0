"""Methods of this project as contestants: one engine each around a shared target. Does not know suites or statistics.

Methods are driven at the level of token ids, as peers are: no text is made while the clock runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from evodraft.assemble import LoadOptions, PartSpecs, build_engine
from evodraft.bench.contestants import Answer, Memory, Outcome, Profile, RoundRecord
from evodraft.bench.settled import settled
from evodraft.errors import BenchError, EvodraftError, UnknownOptionError
from evodraft.learners.base import LearnerNeeds
from evodraft.params import SamplingParams
from evodraft.runtime.choose import report_of, runtime_of
from evodraft.runtime.support import ModelFacts
from evodraft.spellings import refuse_missing_parts
from evodraft.types import Request

if TYPE_CHECKING:
    from evodraft.assemble import LoadedTarget
    from evodraft.bench.contestants import Ask
    from evodraft.config import EngineConfig
    from evodraft.engine import Engine
    from evodraft.session import Session
    from evodraft.types import Feedback

OPTIONS = ("drafter", "controller", "verifier", "vocabulary", "learners", "preset", "runtime", "numerics")
_EVERYBODY: Final = "shared"  # may learn from an answer
_NOBODY: Final = "off"


@dataclass(frozen=True, slots=True)
class Stage:
    """What the methods of one condition share."""

    target: LoadedTarget
    load: LoadOptions
    config: EngineConfig
    verifier: object = "rejection"  # of methods that name none
    synthetic: str | None = None  # why no figure is one of a real model


class Recorder:
    """Notes every round. A learner in form only: it never updates anything."""

    needs = LearnerNeeds()

    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []

    def observe(self, feedback: Feedback) -> None:
        timings = feedback.timings
        num_accepted = feedback.commit.num_accepted
        drafted = feedback.draft.num_tokens
        self.rounds.append(RoundRecord(drafted, num_accepted, timings.draft, timings.score, timings.batch_size))

    def step(self, budget_ms: float) -> None:
        return None


class Method:
    """One choice of parts. `reset` builds its engine anew: nothing can be left over.

    An engine's first pass may do what is done once (weights are laid out, graphs are captured), so a new one first
    repeats the beginning of the first answer that was asked for; nobody learns from that.

    Raises ConfigError for options that `LLM.from_pretrained` would refuse.
    """

    def __init__(self, name: str, options: Mapping[str, object], stage: Stage) -> None:
        self._parts = parts_of(options, stage.verifier)
        self._load = load_of(options, stage.load)
        self._stage = stage
        self._num_requests = 0
        self._first_asks: Sequence[Ask] = ()
        self._recorder = Recorder()
        self._engine: Engine | None = self._build()
        self.profile = Profile(
            name,
            "method",
            dict(options),
            is_exact=self._engine.verifier.exact,
            synthetic=stage.synthetic,
            label=_label(self._engine),
        )

    @property
    def engine(self) -> Engine:
        """The engine of this moment; raises BenchError after `close`."""
        if self._engine is None:
            raise BenchError(f"method {self.profile.name!r} is closed")
        return self._engine

    def reset(self) -> None:
        self._engine = None  # its caches go before the new ones come
        self._recorder = Recorder()
        self._engine = self._build()
        try:
            self._answered([ask.shortened() for ask in self._first_asks], _NOBODY)
        except Exception:  # it will fail again where it is noted; nothing of it may be left
            self._engine = self._build()

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        """Answers one batch; the clock runs from the first submission to the last commit."""
        engine, first = self.engine, len(self._recorder.rounds)
        self._first_asks = self._first_asks or tuple(asks)
        spent = replace(engine.metrics)
        started = time.perf_counter()
        sessions = self._answered(asks)
        request_s = time.perf_counter() - started
        return Outcome(
            tuple(_answer(session) for session in sessions),
            request_s=request_s,
            decode_s=request_s - (engine.metrics.prefill_s - spent.prefill_s),
            learn_s=engine.metrics.learn_s - spent.learn_s,
            rounds=tuple(self._recorder.rounds[first:]),
        )

    def memory(self) -> Memory:
        """Parameters, buffers and caches of target and draft, whose tensors are counted once, and copies of weights."""
        decoders = [self.engine.target.decoder, getattr(self.engine.drafter, "decoder", None)]
        runtimes = [runtime for runtime in map(runtime_of, decoders) if runtime is not None]
        return Memory(
            weights_bytes=_weights_bytes([runtime.model for runtime in runtimes])
            + sum(runtime.copied_bytes for runtime in runtimes)
            + getattr(self.engine.drafter, "copied_bytes", 0),
            cache_bytes=sum(getattr(decoder, "cache_bytes", 0) for decoder in decoders),
            learner_bytes=sum(getattr(learner, "memory_bytes", 0) for learner in self.engine.learners),
        )

    def close(self) -> None:
        self._engine = None

    def _build(self) -> Engine:
        parts = replace(self._parts, learners=(*self._parts.learners, self._recorder))
        engine = build_engine(self._stage.target, parts, self._load, self._stage.config)
        engine.target = settled(engine.target, ModelFacts.of(self._stage.target.model).device)
        return engine

    def _answered(self, asks: Sequence[Ask], scope: str = _EVERYBODY) -> list[Session | EvodraftError]:
        sessions = [self._submitted(ask, scope) for ask in asks]
        while self.engine.has_work:
            self.engine.step()
        return sessions

    def _submitted(self, ask: Ask, scope: str) -> Session | EvodraftError:
        self._num_requests += 1
        params = SamplingParams(
            max_new_tokens=ask.max_new_tokens,
            temperature=ask.temperature,
            repetition_penalty=ask.repetition_penalty,
            seed=ask.seed,
        )
        request = Request(
            request_id=f"{self.profile.name}-{self._num_requests}",
            token_ids=ask.token_ids,
            params=params,
            seed=ask.seed,
            speculative=self._parts.drafter is not None,
            is_seed_chosen=True,
            stop_token_ids=frozenset(ask.stop_token_ids),
            scope=scope,
        )
        try:
            return self.engine.submit(request)
        except EvodraftError as error:
            return error


def parts_of(options: Mapping[str, object], verifier: object) -> PartSpecs:
    """Parts as `LLM.from_pretrained` would understand `options`; `verifier` where they name none."""
    for name in options:
        if name not in OPTIONS:
            raise UnknownOptionError("method option", name, OPTIONS)
    learners: Any = options.get("learners", ())
    refuse_missing_parts(options.get("preset"), learners)
    return PartSpecs(
        drafter=options.get("drafter", "auto"),
        controller=options.get("controller", "auto"),
        verifier=options.get("verifier", verifier),
        learners=tuple(learners),
        vocabulary=options.get("vocabulary"),
    )


def load_of(options: Mapping[str, object], load: LoadOptions) -> LoadOptions:
    """How everything is loaded, with the runtime and the numerics that `options` name."""
    named: dict[str, Any] = {name: options[name] for name in ("runtime", "numerics") if name in options}
    return replace(load, **named)


def _label(engine: Engine) -> str:
    """What `auto` came to, and the draft's runtime where it is another one."""
    chosen, draft = report_of(engine.target.decoder), report_of(getattr(engine.drafter, "decoder", None))
    assert chosen is not None  # `build_engine` chooses
    other = "" if draft is None or draft.name == chosen.name else f", draft's runtime {draft.name}"
    return f"runtime {chosen.name}, {chosen.numerics.name} numerics{other}"


def _answer(session: Session | EvodraftError) -> Answer:
    if isinstance(session, EvodraftError):
        return Answer((), error=str(session))
    committed = tuple(session.token_ids[session.num_prompt_tokens :])
    error = None if session.error is None else str(session.error)
    return Answer(committed, session.stats(), error)


def _weights_bytes(models: Sequence[Any]) -> int:
    """Of all of them together: a draft may share tensors with its target."""
    tensors = {id(tensor): tensor.nbytes for model in models for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
