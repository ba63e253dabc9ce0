"""Trees, grown chains and slices through the whole engine: the law of the output is the target's, in fractions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters import ModelDrafter
from evodraft.params import SamplingParams
from evodraft.testing import (
    ScriptedController,
    ScriptedDrafter,
    SignalController,
    SwappingLearner,
    TableDecoder,
    TableLM,
    coupled_tokens,
    enumerate_outcomes,
    outputs,
    plain_law,
    product_law,
    run_all,
    table_engine,
)
from evodraft.testing.slices import SlicedDrafter
from evodraft.testing.trees import Shape, TreeDrafter, random_shape
from evodraft.types import ROOT, Plan, Request
from evodraft.verifiers import CoupledVerifier

TARGET = TableLM.random(4, order=2, seed=41)
DRAFT = TableLM.random(4, order=2, seed=42)
SPARSE = TableLM.random(4, order=2, seed=43, num_zeros=2)
PROMPT = (1, 2, 3)


def request(num_tokens: int = 3, *, name: str = "a", prompt: Sequence[int] = PROMPT, **options) -> Request:
    kept = ("stop_token_ids", "stop_checks", "speculative", "logits_processors")
    more = {key: options.pop(key) for key in kept if key in options}
    params = SamplingParams(max_new_tokens=num_tokens, **{"temperature": 1.0, **options})
    return Request(name, tuple(prompt), params, seed=ord(name), **more)


def model(table: TableLM = DRAFT) -> ModelDrafter:
    return ModelDrafter(TableDecoder(table), table.vocab_size)


def fixed(*parents: int) -> Shape:
    """The same shape after every context, cut to what may be grown."""

    def shape(context, growth) -> list[int]:
        depths, kept = {ROOT: 0}, []
        for node, parent in enumerate(parents[: growth.num_nodes]):
            depths[node] = depths[parent] + 1
            if depths[node] > growth.depth:
                break
            kept.append(parent)
        return kept

    return shape


def by_context(context, growth) -> list[int]:
    """Wide after an even sum, deep after an odd one, nothing after every fifth."""
    if sum(context) % 5 == 0:
        return []
    return (
        fixed(ROOT, ROOT, ROOT, 1, 1)(context, growth) if sum(context) % 2 else fixed(ROOT, 0, 0, 1, 3)(context, growth)
    )


SHAPES = {
    "two siblings": fixed(ROOT, ROOT),
    "all ids": fixed(ROOT, ROOT, ROOT, ROOT),
    "two below each of two": fixed(ROOT, ROOT, 0, 0, 1, 1),
    "breadth first, three levels": fixed(ROOT, ROOT, ROOT, 0, 1, 1, 4, 5),
    "depth first": fixed(ROOT, 0, 1, 0, ROOT, 4),
    "by context": by_context,
    "random": random_shape(5),
}
TREE = Plan(width=3, num_nodes=8)


class ByRequest:
    """A plan for each request."""

    needs_signals = False

    def __init__(self, **plans: Plan) -> None:
        self.plans = plans

    def start(self, request_id: str) -> None: ...

    def plan(self, request_id: str) -> Plan:
        return self.plans[request_id]

    def more(self, rows) -> list[bool]:
        return [row.num_drawn < row.plan.width for row in rows]

    def observe(self, feedback) -> None: ...

    def finish(self, request_id: str) -> None: ...


class Tally:
    """What all runs of an enumeration did together."""

    def __init__(self, target: TableLM, make_engine: Callable) -> None:
        self.target = target
        self.make_engine = make_engine
        self.num_accepted = self.num_drafted = self.num_drafts = 0

    def check(self, *makers: Callable[[], Request]) -> None:
        def run(stream):
            engine = self.make_engine(stream)
            result = outputs(engine, [make() for make in makers])
            self.num_accepted += engine.metrics.num_accepted_tokens
            self.num_drafted += engine.metrics.num_draft_tokens
            self.num_drafts += engine.metrics.num_drafts
            return result

        assert enumerate_outcomes(run) == product_law(*(plain_law(self.target, make) for make in makers))


# --- trees --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [DRAFT, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_any_tree(shape, table) -> None:
    def make_engine(stream):
        return table_engine(TARGET, TreeDrafter(model(table), shape), ScriptedController([TREE]), stream=stream)

    tally = Tally(TARGET, make_engine)
    tally.check(lambda: request(4))
    assert tally.num_drafted > tally.num_accepted > 0


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.6}], ids=str)
def test_trees_under_any_law(options) -> None:
    tally = Tally(
        TARGET,
        lambda stream: table_engine(
            TARGET, TreeDrafter(model(), by_context), ScriptedController([TREE, 1]), stream=stream
        ),
    )
    tally.check(lambda: request(4, **options))


def test_a_tree_a_chain_and_plain_decoding_in_one_batch() -> None:
    plans = {"a": TREE, "b": Plan(2), "c": Plan(0)}
    target, draft = TableLM.random(3, order=1, seed=3, num_zeros=1), TableLM.random(3, order=1, seed=4)
    tally = Tally(
        target,
        lambda stream: table_engine(
            target, TreeDrafter(model(draft), random_shape(1)), ByRequest(**plans), stream=stream
        ),
    )
    tally.check(
        lambda: request(3, name="a", prompt=(1, 2)),
        lambda: request(2, name="b", prompt=(2,)),
        lambda: request(2, name="c", prompt=(0, 2, 2, 1)),
    )
    assert tally.num_accepted > 0


def test_two_trees_of_greedy_and_drawn_requests() -> None:
    """Ranked in one call: raw logits for the one, its law for the other."""
    controller = ScriptedController([TREE])
    tally = Tally(
        TARGET,
        lambda stream: table_engine(TARGET, TreeDrafter(model(), by_context), controller, stream=stream),
    )
    tally.check(lambda: request(4, name="a", temperature=0.0), lambda: request(3, name="b", top_k=2))


class Counting:
    """Favours an id that depends on the number of calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, input_ids, scores):
        self.seen.append(tuple(input_ids[0].tolist()))
        scores = scores.clone()
        scores[0, (2 * len(self.seen)) % 4] += 1.0986122886681098  # log 3
        return scores


@pytest.mark.parametrize("stop_token_ids", [frozenset(), frozenset({2}), frozenset({1, 3})], ids=str)
def test_a_stateful_processor_sees_the_calls_of_plain_decoding(stop_token_ids) -> None:
    """Also where siblings end the text and others do not."""

    def make() -> Request:
        return request(3, logits_processors=(Counting(),), stop_token_ids=stop_token_ids)

    def run(stream):
        drafter = TreeDrafter(model(), fixed(ROOT, ROOT, ROOT, ROOT, 0, 1, 2, 3))
        engine = table_engine(TARGET, drafter, ScriptedController([TREE]), stream=stream)
        item = make()
        (output,) = outputs(engine, [item])
        (counting,) = item.logits_processors
        assert counting.seen == [(*PROMPT, *output[:length]) for length in range(len(output))]
        return output

    assert enumerate_outcomes(run) == plain_law(TARGET, make)


def test_a_stop_check_inside_an_accepted_path() -> None:
    tally = Tally(
        TARGET,
        lambda stream: table_engine(
            TARGET, TreeDrafter(model(), fixed(ROOT, ROOT, 0, 1, 2, 3)), ScriptedController([TREE]), stream=stream
        ),
    )
    tally.check(lambda: request(4, stop_checks=(lambda token_ids: token_ids[-1] == 1,), stop_token_ids=frozenset({0})))


# --- grown chains -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "goes_on_if_likely"), [(0.4, True), (0.6, True), (0.6, False)])
def test_a_grown_chain_is_cut_by_what_stands_in_it(threshold, goes_on_if_likely) -> None:
    """Chosen tokens may be dropped for their value (X2)."""

    def rule(signals) -> bool:
        return not signals or (signals[-1].probability >= threshold) is goes_on_if_likely

    def make_engine(stream):
        return table_engine(TARGET, TreeDrafter(model(), by_context), SignalController(rule, width=3), stream=stream)

    tally = Tally(TARGET, make_engine)
    for prompt in ((0,), (1, 2), (3, 3, 1), (2, 0)):
        tally.check(lambda prompt=prompt: request(8, prompt=prompt, temperature=0.0))
    assert tally.num_drafts < tally.num_drafted < 3 * tally.num_drafts


def test_a_grown_chain_is_the_chain_that_steps_would_draw() -> None:
    items = [request(12, name=name, prompt=(number,), temperature=0.0) for number, name in enumerate("abc")]
    texts = []
    for drafter in (model(), TreeDrafter(model(), by_context)):
        engine = table_engine(TARGET, drafter, SignalController(lambda signals: True, width=4))
        sessions = run_all(engine, items)
        texts.append([(session.token_ids, session.stats().accepted_per_position) for session in sessions])
    assert texts[0] == texts[1]


# --- slices -------------------------------------------------------------------------------------------------------

SLICES = {"all": [0, 1, 2, 3], "two": [1, 3], "one": [2], "the ends": [0, 3]}


@pytest.mark.parametrize("is_grown", [False, True])
@pytest.mark.parametrize("ids", SLICES.values(), ids=SLICES)
def test_any_slice(ids, is_grown) -> None:
    """Also where what the target says is mostly outside of it."""

    def make_engine(stream):
        sliced = SlicedDrafter(model(), ids)
        drafter = TreeDrafter(sliced, by_context) if is_grown else sliced
        return table_engine(TARGET, drafter, ScriptedController([TREE if is_grown else 2]), stream=stream)

    tally = Tally(TARGET, make_engine)
    tally.check(lambda: request(3))
    assert tally.num_drafted > tally.num_accepted > 0


def test_q_is_zero_outside_of_a_slice_and_one_inside() -> None:
    seen = []
    learner = SwappingLearner(lambda feedback: seen.append(feedback.draft))
    engine = table_engine(TARGET, SlicedDrafter(model(), [1, 3]), ScriptedController([3]), learners=[learner])
    outputs(engine, [request(20)])
    laws = [law for draft in seen if draft.q is not None for law in draft.q]
    assert len(laws) > 10
    for law in laws:
        assert law.shape == (4,)
        assert law[[0, 2]].tolist() == [0.0, 0.0]
        assert law.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("is_grown", [False, True])
def test_the_slice_changes_between_rounds(is_grown) -> None:
    """Which ids come next depends on what was drafted and committed."""
    slices = [[0, 1], [1, 2, 3], [3], [0, 2]]

    def make_engine(stream):
        sliced = SlicedDrafter(model(), slices[0])
        learner = SwappingLearner(
            lambda feedback: slices[sum((*feedback.draft.token_ids, *feedback.commit.token_ids)) % 4]
        )
        return table_engine(
            TARGET,
            TreeDrafter(sliced, by_context) if is_grown else sliced,
            ScriptedController([TREE if is_grown else 2]),
            learners=[learner],
            stream=stream,
        )

    Tally(TARGET, make_engine).check(lambda: request(3))


def test_laws_and_choices_of_a_slice_in_one_draft() -> None:
    """A script that chooses now and then, seen through a slice: each law is made whole on its own."""

    def offer(context):
        return [0.25, 0.25, 0.25, 0.25] if len(context) % 2 else 3

    class Sliced(SlicedDrafter):
        def step(self, rows):
            step = self.inner.step(rows)
            return step if step.logits is None else super().step(rows)

    Tally(
        TARGET,
        lambda stream: table_engine(
            TARGET, Sliced(ScriptedDrafter(offer, 4), [0, 3]), ScriptedController([3]), stream=stream
        ),
    ).check(lambda: request(3))


# --- coupled ------------------------------------------------------------------------------------------------------


def coupled_request(name: str = "a", **options) -> Request:
    return request(24, name=name, **options)


@pytest.mark.parametrize("ids", SLICES.values(), ids=SLICES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_coupled_trees_change_no_token(shape, ids) -> None:
    plans = {"a": TREE, "b": Plan(2, 5), "c": Plan(3), "d": Plan(0), "e": TREE}
    options = [{}, {"temperature": 0.5}, {}, {"top_k": 2}, {"temperature": 0.0}]
    items = [coupled_request(name, prompt=PROMPT[:1], **more) for name, more in zip(plans, options, strict=True)]
    drafter = TreeDrafter(SlicedDrafter(model(), ids), shape)
    engine = table_engine(TARGET, drafter, ByRequest(**plans), CoupledVerifier())
    assert outputs(engine, items) == tuple(coupled_tokens(TARGET, lambda item=item: item) for item in items)
    assert engine.metrics.num_accepted_tokens > 0


@pytest.mark.parametrize("ids", [SLICES["all"], SLICES["two"]], ids=["all", "two"])
def test_the_first_child_is_the_token_of_plain_coupled_drafting(ids) -> None:
    """Ranking by log q + G, and drawing by arg min E / q on the slice, agree (X15)."""
    drafts: list[list[tuple[int, ...]]] = []
    for is_grown in (False, True):
        seen: list[tuple[int, ...]] = []
        learner = SwappingLearner(lambda feedback, seen=seen: seen.append(feedback.draft.token_ids))
        for name in "abcd":
            sliced = SlicedDrafter(model(), ids)
            drafter = TreeDrafter(sliced, fixed(ROOT)) if is_grown else sliced
            plan = Plan(1, 1) if is_grown else Plan(1)
            engine = table_engine(TARGET, drafter, ScriptedController([plan]), CoupledVerifier(), [learner])
            outputs(engine, [coupled_request(name)])
        drafts.append(seen)
    assert drafts[0] == drafts[1]
    assert sum(map(len, drafts[0])) > 40


def test_a_coupled_tree_of_the_target_itself_is_always_accepted() -> None:
    engine = table_engine(
        TARGET, TreeDrafter(model(TARGET), fixed(ROOT, 0, 1)), FixedController(FixedConfig(3, 4)), CoupledVerifier()
    )
    (session,) = run_all(engine, [coupled_request()])
    stats = session.stats()
    assert stats.num_accepted_tokens == stats.num_draft_tokens > 0
