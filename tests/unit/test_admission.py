"""Slots and the rectangle of the caches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evodraft.admission import Admission

TAKEN = [  # slots, cache tokens, reservations in order, slots given
    (3, None, [10**6] * 4, [0, 1, 2, None]),
    (4, 100, [50, 50, 1], [0, 1, None]),
    (4, 100, [51, 50], [0, None]),
    (4, 100, [50, 51], [0, None]),
    (4, 100, [25, 25, 25, 25, 1], [0, 1, 2, 3, None]),
    (4, 100, [100, 1], [0, None]),
    (4, 100, [101], [None]),
    (4, 0, [1], [None]),
]


@pytest.mark.parametrize(("num_slots", "cache_tokens", "reservations", "slots"), TAKEN)
def test_rows_times_columns_stay_within(
    num_slots: int, cache_tokens: int | None, reservations: list[int], slots: list[int | None]
) -> None:
    admission = Admission(num_slots, cache_tokens)
    assert [admission.take(num_tokens) for num_tokens in reservations] == slots


def test_what_is_refused_takes_nothing() -> None:
    admission = Admission(2, 100)
    assert (admission.take(101), admission.take(100)) == (None, 0)


def test_a_high_slot_keeps_its_row_and_a_long_one_its_columns() -> None:
    admission = Admission(4, 120)
    assert [admission.take(30) for _ in range(4)] == [0, 1, 2, 3]
    for slot in (0, 1, 2):
        admission.free(slot)
    assert admission.take(31) is None, "slot 3 is in use: four rows of 31 columns"
    assert admission.take(30) == 0
    admission.free(3)
    assert (admission.take(60), admission.take(60)) == (1, None)
    admission.free(1)
    assert [admission.take(40) for _ in range(3)] == [1, 2, None]


@given(
    st.integers(1, 6),
    st.integers(1, 60),
    st.lists(st.one_of(st.integers(1, 60), st.integers(-6, -1)), max_size=40),
)
def test_any_sequence_of_comings_and_goings(num_slots: int, cache_tokens: int, events: list[int]) -> None:
    """A positive event asks for so many tokens, a negative one frees a slot."""
    admission = Admission(num_slots, cache_tokens)
    reserved: dict[int, int] = {}
    for event in events:
        if event < 0:
            slot = -event - 1
            if slot in reserved:
                admission.free(slot)
                del reserved[slot]
            continue
        given_slot = admission.take(event)
        free = [slot for slot in range(num_slots) if slot not in reserved]
        wanted = {**reserved, free[0]: event} if free else {}
        if wanted and (max(wanted) + 1) * max(wanted.values()) <= cache_tokens:
            assert given_slot == free[0]
            reserved = wanted
        else:
            assert given_slot is None
    assert reserved or admission.take(cache_tokens) == 0, "whoever fits alone runs when nobody else does"


def test_slots_may_be_as_long_as_the_rows_in_use_allow() -> None:
    admission = Admission(num_slots=3, cache_tokens=90)
    assert admission.num_columns == 90
    assert (admission.take(20), admission.take(30)) == (0, 1)
    assert admission.num_columns == 45
    admission.free(0)
    assert admission.num_columns == 45  # the rectangle still has two rows
    admission.free(1)
    assert admission.num_columns == 90
    assert Admission(num_slots=3).num_columns is None
