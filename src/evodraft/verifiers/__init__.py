"""Verifiers, by name. A new one is a file here and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping

from evodraft.config import Entry, NoOptions
from evodraft.verifiers.auto import AutoVerifier
from evodraft.verifiers.base import Case, Verifier
from evodraft.verifiers.coupled import CoupledVerifier
from evodraft.verifiers.rejection import RejectionVerifier

__all__ = ["VERIFIERS", "AutoVerifier", "Case", "CoupledVerifier", "RejectionVerifier", "Verifier"]

VERIFIERS: Mapping[str, Entry] = {
    "auto": Entry(NoOptions, lambda config: AutoVerifier()),
    "rejection": Entry(NoOptions, lambda config: RejectionVerifier()),
    "coupled": Entry(NoOptions, lambda config: CoupledVerifier()),
}
