"""The engine when memory is short: who has to wait, who gives way, and that nobody else notices."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters import ModelDrafter
from evodraft.drafters.base import Growth
from evodraft.engine import Engine
from evodraft.errors import CapacityError, PromptError, SamplingError
from evodraft.params import SamplingParams
from evodraft.runtime.hf import HfDecoder
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import ScriptedController, TableDecoder, TableLM, enumerate_outcomes, outputs, run_all
from evodraft.testing.tiny import tiny_model
from evodraft.testing.trees import TreeDrafter
from evodraft.types import Request
from evodraft.verifiers import CoupledVerifier, RejectionVerifier

TABLE = TableLM.random(4, order=2, seed=1)
DRAFT = TableLM.random(4, order=2, seed=2)
VERIFIERS = [CoupledVerifier, RejectionVerifier]


def request(name: str, prompt: Sequence[int] = (1, 2, 3), num_tokens: int = 12, **more: Any) -> Request:
    params = SamplingParams(max_new_tokens=num_tokens, temperature=1.0)
    return Request(name, tuple(prompt), params, seed=sum(name.encode()), **more)


def engine_of(
    verifier: Any = CoupledVerifier,
    target: TableDecoder | None = None,
    draft: TableDecoder | None = None,
    cache_tokens: int | None = None,
    **config: Any,
) -> Engine:
    return Engine(
        Target(target or TableDecoder(TABLE)),
        verifier(),
        ModelDrafter(draft or TableDecoder(DRAFT), 4),
        FixedController(FixedConfig(num_draft_tokens=3)),
        config=EngineConfig(**config),
        cache_tokens=cache_tokens,
    )


def alone(item: Request, verifier: Any = CoupledVerifier) -> tuple[int, ...]:
    (tokens,) = outputs(engine_of(verifier), [item])
    return tokens


# --- admission by free tokens -------------------------------------------------------------------------------------


class Measured(TableDecoder):
    """Notes the largest rectangle of rows and columns that was in use."""

    rectangle = 0

    def forward(self, token_ids: torch.Tensor, widths: Sequence[int], slots: Sequence[int], **options: Any) -> Any:
        output = super().forward(token_ids, widths, slots, **options)
        lengths = [self.length(slot) for slot in range(self.num_slots)]
        rows = max(slot + 1 for slot, length in enumerate(lengths) if length)
        self.rectangle = max(self.rectangle, rows * max(lengths))
        return output


def starts_of(engine: Engine, sessions: Sequence[Session]) -> list[int]:
    """In which step each session got its slot; runs all to their end."""
    starts: dict[str, int] = {}
    step = 0
    while engine.has_work:
        engine.step()
        for session in sessions:
            if session.num_prefilled or session.num_tokens:
                starts.setdefault(session.request.request_id, step)
        step += 1
    return [starts[session.request.request_id] for session in sessions]


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("cache_tokens", [50, 64, 100, 10_000])
def test_the_rectangle_of_the_caches_stays_within(cache_tokens: int, verifier: Any) -> None:
    decoders = Measured(TABLE), Measured(DRAFT)
    engine = engine_of(verifier, *decoders, cache_tokens=cache_tokens)
    items = [request(f"r{i}", (i % 4,) * (1 + 7 * i % 11), 5 + 17 * i % 23) for i in range(12)]
    sessions = [engine.submit(item) for item in items]
    starts = starts_of(engine, sessions)
    assert starts == sorted(starts), "first come first served"
    assert [session.output_ids for session in sessions] == [alone(item, verifier) for item in items]
    assert all(0 < decoder.rectangle <= cache_tokens for decoder in decoders)


@pytest.mark.parametrize(("cache_tokens", "max_length"), [(50, 64), (64, 64), (100, 40), (None, 30)])
def test_trees_stay_within_the_rectangle_too(cache_tokens: int | None, max_length: int) -> None:
    """They take what is free beside what the requests themselves may come to need."""
    decoder = Measured(TABLE, 4, max_length)
    drafter = TreeDrafter(ModelDrafter(TableDecoder(DRAFT), 4), lambda context, growth: _caterpillar(growth))
    controller = FixedController(FixedConfig(num_draft_tokens=3, num_nodes=24))
    config = EngineConfig(max_batch=4)
    engine = Engine(Target(decoder), CoupledVerifier(), drafter, controller, config=config, cache_tokens=cache_tokens)
    items = [request(f"r{i}", (i % 4,) * (1 + 7 * i % 11), 5 + 13 * i % 17) for i in range(8)]
    assert outputs(engine, items) == tuple(alone(item) for item in items)
    assert 0 < decoder.rectangle <= (cache_tokens or 4 * max_length)
    assert engine.metrics.num_draft_tokens > 4 * engine.metrics.num_drafts, "trees were cut to chains"


def _caterpillar(growth: Growth) -> list[int]:
    """Four children below each first child, as many as may be."""
    parents = [-1, -1, -1, -1, *(parent for parent in (0, 4) for _ in range(4))] if growth.depth > 2 else [-1] * 4
    return parents[: growth.num_nodes]


def test_a_long_request_runs_alone_and_nobody_overtakes_it() -> None:
    engine = engine_of(cache_tokens=60)
    sizes = {"a": 10, "long": 57, "b": 5, "c": 5}
    sessions = [engine.submit(request(name, num_tokens=size)) for name, size in sizes.items()]
    starts = starts_of(engine, sessions)
    assert starts[0] < starts[1] < starts[2] == starts[3]
    assert [len(session.output_ids) for session in sessions] == list(sizes.values())


def test_without_a_limit_only_slots_count() -> None:
    engine = engine_of()
    sessions = [engine.submit(request(f"r{i}", num_tokens=61)) for i in range(9)]
    engine.step()
    assert [session.num_tokens > 0 for session in sessions] == [True] * 8 + [False]


@pytest.mark.parametrize(
    ("prompt", "num_tokens", "kind", "message"),
    [
        (
            (1,) * 20,
            1,
            PromptError,
            r"the prompt has 20 tokens.* limited to 20; shorten the prompt or raise",
        ),
        (
            (1,) * 5,
            16,
            SamplingError,
            r"max_new_tokens=16 after a prompt of 5 .*limit of 20 .*<= 15 or raise",
        ),
    ],
)
def test_what_could_never_fit_is_refused(
    prompt: tuple[int, ...], num_tokens: int, kind: type[Exception], message: str
) -> None:
    engine = engine_of(cache_tokens=20)
    with pytest.raises(kind, match=message):
        engine.submit(request("a", prompt, num_tokens))
    assert not engine.has_work
    assert len(alone(request("b", (1,) * 5, 15))) == 15


def test_one_that_waits_for_tokens_may_be_cancelled() -> None:
    engine = engine_of(cache_tokens=30)
    sizes = {"a": 12, "b": 20, "c": 12}
    first, second, third = (engine.submit(request(name, num_tokens=size)) for name, size in sizes.items())
    engine.step()
    assert (first.num_tokens > 0, second.num_tokens, third.num_tokens) == (True, 0, 0)
    engine.cancel(second)
    engine.step()
    assert third.num_tokens > 0, "the next in line fits beside the first"


# --- a device that runs out of memory -----------------------------------------------------------------------------


IsTooLarge = Callable[[int, Sequence[int]], bool]


class Exhausted(TableDecoder):
    """Has no memory for a pass that `is_too_large(pass number, slots)`; `is_late`: notices only when it has written."""

    def __init__(self, table: TableLM, is_too_large: IsTooLarge, is_late: bool = False) -> None:
        super().__init__(table)
        self._is_too_large = is_too_large
        self._is_late = is_late
        self._num_tries = 0

    def forward(self, token_ids: torch.Tensor, widths: Sequence[int], slots: Sequence[int], **options: Any) -> Any:
        self._num_tries += 1
        is_too_large = self._is_too_large(self._num_tries, slots)
        if is_too_large and not self._is_late:
            raise CapacityError("the device ran out of memory in a pass (full); lower max_batch")
        output = super().forward(token_ids, widths, slots, **options)
        if is_too_large:
            raise torch.OutOfMemoryError("full")
        return output


ITEMS = [request("first"), request("second", (2,), 9), request("last", (3, 3, 1, 0), 15)]


def once(number: int) -> IsTooLarge:
    return lambda num_tries, slots: num_tries == number


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_the_youngest_of_a_target_pass_gives_way(number: int, is_late: bool, verifier: Any) -> None:
    """Pass 1 reads prompts, all others score drafts."""
    target = Exhausted(TABLE, once(number), is_late)
    engine = engine_of(verifier, target)
    first, second, last = run_all(engine, ITEMS)
    assert last.finish_reason == "error"
    with pytest.raises(
        CapacityError, match=r"request last was given up: the device ran out of memory .*lower max_batch"
    ):
        last.complete(exact=True).raise_for_error()
    assert last.output_ids == alone(ITEMS[2], verifier)[: len(last.output_ids)]
    assert (last.num_tokens > 0) is (number > 2)
    assert first.output_ids == alone(ITEMS[0], verifier)
    assert second.output_ids == alone(ITEMS[1], verifier)
    assert engine.metrics.num_failed_requests == 1
    assert engine.metrics.num_tokens == sum(session.num_tokens for session in (first, second, last))


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("is_late", [False, True])
def test_the_youngest_gives_way_where_the_draft_reads_prompts(is_late: bool, verifier: Any) -> None:
    engine = engine_of(verifier, draft=Exhausted(DRAFT, once(1), is_late))
    first, second, last = run_all(engine, ITEMS)
    assert (last.finish_reason, last.output_ids) == ("error", ())
    assert first.output_ids == alone(ITEMS[0], verifier)
    assert second.output_ids == alone(ITEMS[1], verifier)


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("number", [2, 3, 4, 6])
def test_the_youngest_gives_way_in_the_middle_of_a_draft(number: int, is_late: bool, verifier: Any) -> None:
    """Passes 2, 3 and 4 draw the first draft, of three tokens."""
    engine = engine_of(verifier, draft=Exhausted(DRAFT, once(number), is_late))
    first, second, last = run_all(engine, ITEMS)
    assert last.finish_reason == "error"
    assert (last.num_tokens > 0) is (number > 4)
    assert last.output_ids == alone(ITEMS[2], verifier)[: len(last.output_ids)]
    assert first.output_ids == alone(ITEMS[0], verifier)
    assert second.output_ids == alone(ITEMS[1], verifier)
    assert engine.metrics.num_failed_requests == 1


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_draft_that_never_fits_ends_all_one_after_the_other(verifier: Any) -> None:
    engine = engine_of(verifier, draft=Exhausted(DRAFT, lambda num_tries, slots: num_tries > 3))
    sessions = run_all(engine, ITEMS)
    assert [session.finish_reason for session in sessions] == ["error"] * 3
    assert not any(engine.target.decoder.length(slot) for slot in range(3))
    assert outputs(engine, [request("plain", speculative=False)]) == (
        alone(request("plain", speculative=False), verifier),
    )


@pytest.mark.parametrize("most", [0, 1, 2])
def test_as_many_give_way_as_do_not_fit(most: int) -> None:
    engine = engine_of(target=Exhausted(TABLE, lambda _, slots: len(slots) > most))
    sessions = run_all(engine, ITEMS)
    assert [session.finish_reason for session in sessions] == ["length"] * most + ["error"] * (3 - most)
    assert [session.output_ids for session in sessions[:most]] == [alone(item) for item in ITEMS[:most]]
    assert engine.metrics.num_failed_requests == 3 - most


def test_the_slot_is_free_for_whoever_waits() -> None:
    target, draft = Exhausted(TABLE, once(4)), TableDecoder(DRAFT)
    engine = engine_of(target=target, draft=draft, max_batch=2)
    sessions = [engine.submit(item) for item in (request("a", num_tokens=30), request("b"), request("c"))]
    while not sessions[1].is_finished:
        engine.step()
    assert sessions[1].error is not None
    assert (target.length(1), draft.length(1)) == (0, 0)
    engine.step()
    assert sessions[2].slot == 1
    while engine.has_work:
        engine.step()
    assert sessions[0].output_ids == alone(request("a", num_tokens=30))
    assert sessions[2].output_ids == alone(request("c"))
    again = engine.submit(request("b"))  # its name is free again, too
    while engine.has_work:
        engine.step()
    assert again.output_ids == alone(request("b"))


def test_a_prompt_that_does_not_fit_spares_those_who_run() -> None:
    """Only who takes part in a pass can give way in it: here, who came last is not even reading."""
    target = Exhausted(TABLE, lambda _, slots: slots == [1] or slots == [1, 2])
    engine = engine_of(target=target, prefill_budget=4)
    running = engine.submit(request("running", (1,), 30))
    engine.step()
    reading, last = engine.submit(request("reading", (0, 1) * 5)), engine.submit(request("last", (2,)))
    while engine.has_work:
        engine.step()
    assert reading.error is not None
    assert running.output_ids == alone(request("running", (1,), 30))
    assert last.output_ids == alone(request("last", (2,)))


def test_the_controller_is_told_that_a_request_ended() -> None:
    controller = ScriptedController([2])
    drafter = ModelDrafter(TableDecoder(DRAFT), 4)
    engine = Engine(Target(Exhausted(TABLE, once(3))), CoupledVerifier(), drafter, controller)
    run_all(engine, ITEMS)
    heard = [event for event, request_id in controller.log if request_id == "last"]
    assert heard == ["start", "observe", "finish"]


def test_a_row_that_is_scored_again_ends_its_own_request() -> None:
    """Where a draft spoilt the numbers, the pass that repeats a row serves one request, whose fault it then is."""

    class Spoilt(TableDecoder):
        def forward(self, token_ids: torch.Tensor, widths: Sequence[int], slots: Sequence[int], **options: Any) -> Any:
            if list(slots) == [0] and token_ids.shape[1] == 1 and self.length(0) > 4:
                raise CapacityError("the device ran out of memory in a pass (full); lower max_batch")
            output = super().forward(token_ids, widths, slots, **options)
            if output.logits is not None and token_ids.shape[1] > 1 and self.length(0) > 6:
                output.logits[0] = torch.nan
            return output

    engine = engine_of(target=Spoilt(TABLE))
    first, second, last = run_all(engine, ITEMS)
    assert isinstance(first.error, CapacityError)
    assert second.output_ids == alone(ITEMS[1])
    assert last.output_ids == alone(ITEMS[2])


@pytest.mark.parametrize("where", ["target", "draft"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_law_of_the_others_is_exact_and_no_noise_is_used_twice(number: int, where: str) -> None:
    """The stream refuses a key that it has seen; the joint output of who stays is the target's own, in fractions."""
    table = TableLM(torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.0, 0.75], [0.0, 0.5, 0.5]], dtype=torch.float64), order=1)
    draft = TableLM(torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64), order=1)

    def is_too_large(num_tries: int, slots: Sequence[int]) -> bool:
        return num_tries >= number and len(slots) == 2

    def run(stream: Any) -> tuple[int, ...]:
        engine = Engine(
            Target(Exhausted(table, is_too_large) if where == "target" else TableDecoder(table)),
            RejectionVerifier(),
            ModelDrafter(Exhausted(draft, is_too_large) if where == "draft" else TableDecoder(draft), 3),
            ScriptedController([2]),
            stream=stream,
        )
        stays, _ = run_all(engine, [request("a", (0, 1), 3), request("b", (2, 2), 2)])
        return tuple(stays.token_ids[2:])

    assert enumerate_outcomes(run) == table.joint((0, 1), 3)


# --- a transformers model that runs out of memory -----------------------------------------------------------------


def test_a_real_model_drops_what_a_failed_pass_computed() -> None:
    """The error that is kept with the request holds no activations, so that the next try finds their memory free."""
    model = tiny_model("llama", vocab_size=64, seed=0)
    held: list[weakref.ref[torch.Tensor]] = []

    def exhaust(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        assert [reference() for reference in held] == [None] * len(held)
        if arguments[0].shape[0] > 2 and arguments[0].shape[1] > 1:
            held.append(weakref.ref(arguments[0]))
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    def engine() -> Engine:
        draft = ModelDrafter(HfDecoder(tiny_model("llama", vocab_size=64, seed=1)), 64)
        return Engine(Target(HfDecoder(model)), RejectionVerifier(), draft, FixedController(FixedConfig(3)))

    items = [request("a", (1,)), request("b", (2,)), request("c", (3,))]
    expected = [outputs(engine(), [item])[0] for item in items]
    exhausted = engine()
    hook = model.model.layers[1].mlp.register_forward_pre_hook(exhaust)
    gc.disable()
    try:
        sessions = run_all(exhausted, items)
    finally:
        gc.enable()
        hook.remove()
    assert len(held) == 1
    assert [tuple(session.output_ids) for session in sessions] == [*expected[:2], ()]
    assert "tried to allocate 2 GiB" in str(sessions[2].error)
