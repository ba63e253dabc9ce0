"""Tables of the rotary embedding: cosine and sine of every position, computed as transformers' rotary modules do.

Does not know models, heads or where the frequencies come from. Frequencies that change with the length of the text
(dynamic scaling) have no table and must be refused before.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

_FIRST_POSITIONS: Final = 256  # rows of the first tables


class RotaryTables(NamedTuple):
    """One row per position; every frequency once."""

    cos: torch.Tensor  # [positions, rotary_dim // 2] float32
    sin: torch.Tensor  # [positions, rotary_dim // 2] float32


class Rotary:
    """Tables that grow by doubling and are kept.

    >>> rotary = Rotary(torch.tensor([1.0, 0.01]), scaling=1.0)
    >>> rotary.tables(300).cos.shape
    torch.Size([300, 2])
    >>> rotary.tables(7).cos is rotary.tables(300).cos
    True
    """

    def __init__(
        self,
        frequencies: torch.Tensor,  # [rotary_dim // 2], as the model holds them: rounded if the model was cast
        scaling: float,
    ) -> None:
        self._frequencies = frequencies.detach().to(torch.float32, copy=True)
        self._scaling = scaling
        self._tables = self._computed(0)

    @property
    def rotary_dim(self) -> int:
        """Numbers of a head that rotate; the rest of it passes through."""
        return 2 * self._frequencies.shape[0]

    def tables(self, num_positions: int) -> RotaryTables:
        """Tables of at least the positions 0 .. num_positions - 1. A row never changes once it was handed out."""
        rows = self._tables.cos.shape[0]
        if rows < num_positions:
            self._tables = self._computed(max(num_positions, 2 * rows, _FIRST_POSITIONS))
        return self._tables

    def _computed(self, num_positions: int) -> RotaryTables:
        with torch.inference_mode(False), torch.no_grad():  # tables outlive the caller's mode
            positions = torch.arange(num_positions, dtype=torch.float32, device=self._frequencies.device)
            angles = positions[:, None] * self._frequencies
            return RotaryTables(angles.cos() * self._scaling, angles.sin() * self._scaling)
