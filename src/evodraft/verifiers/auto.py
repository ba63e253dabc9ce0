"""The default verifier: coupled for requests that chose a seed, rejection for all others.

A caller who names a seed wants the same tokens again; everybody else wants the highest acceptance. Both are exact.
Does not judge anything itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evodraft.verifiers.coupled import CoupledVerifier
from evodraft.verifiers.rejection import RejectionVerifier

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Request, Verdict
    from evodraft.verifiers.base import Case, Verifier


class AutoVerifier:
    """Chooses per request, before anything is drawn."""

    exact = True

    def __init__(self) -> None:
        self._coupled = CoupledVerifier()
        self._rejection = RejectionVerifier()

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        return self._for(request).draft_key(request, keys, position)

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        return self._for(case.request).verify(case, stream)

    def _for(self, request: Request) -> Verifier:
        return self._coupled if request.is_seed_chosen else self._rejection
