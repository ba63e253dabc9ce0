"""Who may run now: slots are handed out as long as the caches' rectangle stays within its budget.

The caches are rectangles: a row for every slot up to the highest in use, and as many columns as the longest sequence
may come to need. Knows numbers of slots and of tokens; not requests, and not who waits.
"""

from __future__ import annotations


class Admission:
    """The slots of an engine and what each has reserved.

    Args:
        num_slots: how many there are.
        cache_tokens: the most that rows x columns may come to; None = no limit.

    >>> admission = Admission(num_slots=4, cache_tokens=100)
    >>> admission.take(num_tokens=40), admission.take(num_tokens=50)
    (0, 1)
    >>> admission.take(num_tokens=10) is None  # three rows of fifty columns
    True
    >>> admission.free(1)
    >>> admission.take(num_tokens=10)
    1
    """

    def __init__(self, num_slots: int, cache_tokens: int | None = None) -> None:
        self._num_slots = num_slots
        self._cache_tokens = cache_tokens
        self._reserved: dict[int, int] = {}  # slot -> tokens

    def take(self, num_tokens: int) -> int | None:
        """Reserves the lowest free slot for a sequence of up to `num_tokens`; None if it has to wait."""
        # low slots first: a full batch is then a contiguous range, and the rectangle has few rows
        slot = next((slot for slot in range(self._num_slots) if slot not in self._reserved), None)
        if slot is None or not self._has_room(slot, num_tokens):
            return None
        self._reserved[slot] = num_tokens
        return slot

    def free(self, slot: int) -> None:
        """Takes a slot back."""
        del self._reserved[slot]

    @property
    def num_columns(self) -> int | None:
        """How long every slot may be now within the budget, be it more than it has reserved; None = no limit.

        >>> admission = Admission(num_slots=4, cache_tokens=100)
        >>> admission.take(num_tokens=10), admission.take(num_tokens=10), admission.num_columns
        (0, 1, 50)
        """
        if self._cache_tokens is None:
            return None
        return self._cache_tokens // (max(self._reserved, default=0) + 1)

    def _has_room(self, slot: int, num_tokens: int) -> bool:
        if self._cache_tokens is None:
            return True
        num_rows = max(slot, *self._reserved, 0) + 1
        num_columns = max(num_tokens, *self._reserved.values(), 0)
        return num_rows * num_columns <= self._cache_tokens
