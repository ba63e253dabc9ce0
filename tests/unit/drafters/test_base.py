"""Rows of a draft."""

from __future__ import annotations

import pytest

from evodraft.drafters.base import DraftRow


@pytest.mark.parametrize("start", range(7))
def test_tokens_from_any_position(start) -> None:
    row = DraftRow(0, [1, 2, 3], [4, 5])
    assert row.length == 5
    assert row.tokens_from(start) == [1, 2, 3, 4, 5][start:]
