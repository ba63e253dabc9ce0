"""The Verifier protocol: who compares a draft with the target's laws.

A verifier walks `parents`, so a tree is not another verifier. It does not know models, sessions or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from evodraft.types import ROOT, Verdict

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Draft, Request, Scores


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


class Said(NamedTuple):
    """What comes after a node."""

    token_id: int
    child: int | None  # the node that it is in the draft; None = the walk ends with it


def walk(case: Case, say: Callable[[int, Sequence[int]], Said]) -> Verdict:
    """Goes down a draft from the root. `say(node, path)` is asked where the target's law leaves a choice; what the law
    is sure of, every exact verifier says."""
    draft, scores = case.draft, case.scores
    node, path, token_ids = ROOT, list[int](), list[int]()
    while node not in scores.ends:
        token_id = scores.laws.sure(node, token_ids)
        said = say(node, token_ids) if token_id is None else Said(token_id, draft.child(node, token_id))
        token_ids.append(said.token_id)
        if said.child is None:
            break
        node = said.child
        path.append(node)
    return Verdict(tuple(path), tuple(token_ids))
