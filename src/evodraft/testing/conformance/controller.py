"""Checks for controllers: they keep within their plan, survive every kind of round, and leave the output law alone.

Does not know how good a length rule is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from evodraft.controllers.base import Progress
from evodraft.drafters.model import ModelDrafter
from evodraft.params import SamplingParams
from evodraft.testing.conformance.expect import expect, expect_same_law
from evodraft.testing.conformance.samples import sample_feedback, sample_feedbacks, sample_signals
from evodraft.testing.enumeration import EnumeratingStream, enumerate_outcomes
from evodraft.testing.harness import outputs, table_engine
from evodraft.testing.reference import plain_law, product_law
from evodraft.testing.table import TableDecoder, TableLM
from evodraft.types import Plan, Request

if TYPE_CHECKING:
    from evodraft.controllers.base import Controller

MakeController = Callable[[], "Controller"]
_LARGEST_WIDTH = 1024


def check_controller(make: MakeController) -> None:
    """Raises AssertionError unless controllers from `make` keep the Controller protocol and the output law.

    >>> from evodraft.controllers import FixedController
    >>> check_controller(FixedController)
    """
    expect(isinstance(make().needs_signals, bool), f"needs_signals is {make().needs_signals!r} instead of a bool")
    _check_rounds(make())
    _check_finish(make())
    _check_law(make)


def _check_rounds(controller: Controller) -> None:
    """Two requests through rounds with laws, without laws, and without drafts."""
    request_ids = ["a", "b"]
    for request_id in request_ids:
        controller.start(request_id)
    generator = torch.Generator().manual_seed(0)
    for number in range(30):
        plans = [_checked_plan(controller, request_id) for request_id in request_ids]
        rows = [Progress(request_id, plan) for request_id, plan in zip(request_ids, plans, strict=True)]
        _check_drawing(controller, rows, None if number % 3 == 0 else generator)
        for request_id in request_ids:
            controller.observe(sample_feedback(request_id, seed=number))
    for request_id in request_ids:
        controller.finish(request_id)


def _checked_plan(controller: Controller, request_id: str) -> Plan:
    plan = controller.plan(request_id)
    expect(isinstance(plan, Plan), f"plan() returned {plan!r} instead of a Plan")
    is_width = isinstance(plan.width, int) and 0 <= plan.width <= _LARGEST_WIDTH
    expect(is_width, f"plan() returned width={plan.width!r}; it must be a whole number from 0 to {_LARGEST_WIDTH}")
    num_nodes = plan.num_nodes
    is_budget = num_nodes is None or (isinstance(num_nodes, int) and num_nodes >= plan.width)
    expect(is_budget, f"plan() returned num_nodes={num_nodes!r} for width={plan.width}; no fewer, or None")
    return plan


def _check_drawing(controller: Controller, rows: list[Progress], generator: torch.Generator | None) -> None:
    """Asks as the engine does: before every draw, until no row may go on. No generator: tokens without a law."""
    active = rows
    while active:
        before = [(row.request_id, row.plan, list(row.signals)) for row in active]
        mask = controller.more(active)
        after = [(row.request_id, row.plan, row.signals) for row in active]
        expect(before == after, "more() changed the progress of a row; it may only read")
        is_mask = isinstance(mask, list) and all(isinstance(item, bool) for item in mask)
        expect(is_mask and len(mask) == len(active), f"more() returned {mask!r} for {len(active)} rows")
        active = [row for row, is_allowed in zip(active, mask, strict=True) if is_allowed]
        for row in active:
            width = row.plan.width
            expect(row.num_drawn < width, f"more() allows draw {row.num_drawn + 1} in a plan of width {width}")
            row.signals.append(None if generator is None else sample_signals(generator))


def _check_finish(controller: Controller) -> None:
    """Late feedback of a finished request is harmless, and its name can be used again."""
    for _ in range(2):
        controller.start("a")
        for feedback in sample_feedbacks("a", 10):
            controller.observe(feedback)
        _checked_plan(controller, "a")
        controller.finish("a")
        controller.observe(sample_feedback("a", seed=8))


def _check_law(make: MakeController) -> None:
    """One sequence, and two in one engine, enumerated."""
    target, draft = TableLM.random(3, 1, seed=1, num_zeros=1), TableLM.random(3, 1, seed=2, num_zeros=1)
    for requests in ([_request(0, 4)], [_request(1, 2), _request(2, 2)]):

        def run(stream: EnumeratingStream, requests: Sequence[Request] = requests) -> tuple[tuple[int, ...], ...]:
            drafter = ModelDrafter(TableDecoder(draft), target.vocab_size)
            return outputs(table_engine(target, drafter, make(), stream=stream), requests)

        wanted = product_law(*(plain_law(target, functools.partial(_same, request)) for request in requests))
        expect_same_law(enumerate_outcomes(run), wanted, f"the output law of {len(requests)} sequence(s)")


def _request(seed: int, num_tokens: int) -> Request:
    return Request(f"{seed}", (seed,), SamplingParams(max_new_tokens=num_tokens, temperature=1.0), seed=seed)


def _same(request: Request) -> Request:
    return request
