"""When a pass does not fit into memory: the session that came last gives way, and the others go on without it.

Does not know what a pass computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from evodraft.errors import CapacityError

if TYPE_CHECKING:
    from evodraft.session import Session

GiveUp = Callable[["Session", CapacityError], None]
"""Ends a session with an error, and leaves the caches of all others as they were before the pass."""


class _HasSession(Protocol):
    session: Session


Row = TypeVar("Row", bound=_HasSession)
Result = TypeVar("Result")


def within_memory(rows: list[Row], run: Callable[[Sequence[Row]], Result], give_up: GiveUp) -> Result | None:
    """What `run(rows)` returns; whenever memory does not suffice, the last of `rows` is taken out and given up first.

    `rows` stand in the order in which their sessions came, and afterwards are those that took part. None if there are
    none.
    """
    while rows:
        try:
            return run(rows)
        except CapacityError as error:
            reason = str(error)
        except torch.OutOfMemoryError as error:  # beside the models, in laws and masks
            reason = (
                f"the device ran out of memory ({error}); lower max_batch or prefill_budget, or leave more of the "
                "device free by a lower kv_cache_gib or gpu_memory_utilization"
            )
        # Not until here, where no traceback holds the tensors of the failed pass any more, is their memory free.
        session = rows.pop().session
        give_up(session, CapacityError(f"request {session.request.request_id} was given up: {reason}"))
    return None
