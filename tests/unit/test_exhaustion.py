"""Passes that do not fit into memory: who gives way, what is tried again, and what is held on to meanwhile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evodraft.errors import CapacityError
from evodraft.exhaustion import within_memory

ERRORS = [CapacityError("too small; lower max_batch"), torch.OutOfMemoryError("tried to allocate 2 GiB")]
MESSAGES = [
    r"request r2 was given up: too small; lower max_batch",
    r"request r2 was given up: the device ran out of memory \(tried to allocate 2 GiB\); lower max_batch or .*kv_cache",
]


def rows_of(count: int) -> list[Any]:
    sessions = [SimpleNamespace(request=SimpleNamespace(request_id=f"r{i}")) for i in range(count)]
    return [SimpleNamespace(session=session) for session in sessions]


def holding(most: int, error: Exception) -> Callable[[Sequence[Any]], int]:
    def run(rows: Sequence[Any]) -> int:
        if len(rows) > most:
            raise error
        return len(rows)

    return run


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("most", "given_up"), [(3, []), (2, ["r2"]), (1, ["r2", "r1"]), (0, ["r2", "r1", "r0"])])
def test_the_last_rows_give_way_until_the_rest_fits(most: int, given_up: list[str], error: Exception) -> None:
    rows, ended = rows_of(3), []
    result = within_memory(rows, holding(most, error), lambda session, _: ended.append(session.request.request_id))
    assert result == (most or None)
    assert len(rows) == most
    assert ended == given_up


@pytest.mark.parametrize(("error", "message"), list(zip(ERRORS, MESSAGES, strict=True)))
def test_the_error_says_what_to_lower(error: Exception, message: str) -> None:
    errors: list[CapacityError] = []
    within_memory(rows_of(3), holding(2, error), lambda _, why: errors.append(why))
    with pytest.raises(CapacityError, match=message):
        raise errors[0]


def test_nothing_to_do_asks_nobody() -> None:
    assert within_memory([], lambda rows: pytest.fail("ran"), lambda *_: pytest.fail("gave up")) is None


def test_other_errors_are_the_callers() -> None:
    rows = rows_of(2)
    with pytest.raises(KeyError):
        within_memory(rows, holding(0, KeyError()), lambda *_: pytest.fail("gave up"))
    assert len(rows) == 2


def test_what_a_failed_pass_held_is_free_before_the_next_try() -> None:
    """A traceback holds the tensors of every frame; an error that is kept must not keep them."""
    held: list[weakref.ref[torch.Tensor]] = []
    errors: list[CapacityError] = []

    def run(rows: Sequence[Any]) -> int:
        assert [reference() for reference in held] == [None] * len(held)
        activation = torch.zeros(8)
        held.append(weakref.ref(activation))
        if len(rows) > 1:
            try:
                raise torch.OutOfMemoryError("full")
            except torch.OutOfMemoryError as error:
                raise CapacityError("too small") from error
        return len(rows)

    gc.disable()
    try:
        assert within_memory(rows_of(3), run, lambda _, why: errors.append(why)) == 1
    finally:
        gc.enable()
    assert (len(held), len(errors)) == (3, 2)
