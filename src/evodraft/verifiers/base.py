"""The Verifier protocol: who compares a draft with the target's laws.

A verifier walks `parents`, so a tree is not another verifier. It does not know models, sessions or caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Draft, Request, Scores, Verdict


@dataclass(frozen=True, slots=True)
class Case:
    """One draft to judge."""

    request: Request
    keys: RequestKeys
    position: int  # absolute position of the first draft token = tokens committed so far
    draft: Draft
    scores: Scores


class Verifier(Protocol):
    """Judges drafts. `exact` says whether the output law is the target's own (X7)."""

    exact: bool

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        """The noise with which a draft token for `position` must be drawn."""
        ...

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        """The accepted path and the target's own next token."""
        ...
