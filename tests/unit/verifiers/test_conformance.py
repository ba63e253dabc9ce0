"""Every verifier of the table: protocol, order of questions, output law."""

from __future__ import annotations

import pytest

from evodraft.testing import check_verifier
from evodraft.verifiers import VERIFIERS


@pytest.mark.parametrize("name", list(VERIFIERS))
def test_conforms(name) -> None:
    entry = VERIFIERS[name]
    check_verifier(lambda: entry.build(entry.config()))
