"""Reading a prompt, over when it returns: an accelerator works on behind the back of whoever reads the clock.

Rounds need no such care: their tokens are looked at before they end. Does not know a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from evodraft.target import Target

if TYPE_CHECKING:
    from evodraft.session import Session
    from evodraft.target import Chunk

Wait = Callable[[], None]
"""Returns when a device has done all that it was told to do."""


class SettledTarget(Target):
    """The same target; after a chunk of a prompt it waits."""

    def __init__(self, target: Target, wait: Wait) -> None:
        super().__init__(target.decoder, target.vocab_size, target.taps)
        self._wait = wait

    def prefill(self, sessions: Sequence[Session], widths: Sequence[int]) -> list[Chunk]:
        chunks = super().prefill(sessions, widths)
        self._wait()
        return chunks


def settled(target: Target, device: torch.device) -> Target:
    """The target as it is timed on that device; a processor has nothing to wait for."""
    return target if device.type == "cpu" else SettledTarget(target, lambda: torch.accelerator.synchronize(device))
