"""Checks for verifiers: the shape of a verdict, the order of questions, and for exact ones the output law.

Noise drawn afresh is enumerated. Noise that draft and target share (the draft key is a function of the position)
cannot be; there the tokens must be those of a verifier that never saw a draft, and their frequencies must fit.
Does not know how a verdict is reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.params import SamplingParams
from evodraft.sampling import HashedStream, RequestKeys
from evodraft.testing.conformance.expect import expect, expect_same_law
from evodraft.testing.enumeration import enumerate_outcomes
from evodraft.testing.fit import chi_square_p_value
from evodraft.testing.table import TableLM
from evodraft.types import ROOT, Draft, Request, Scores, Verdict
from evodraft.verifiers.base import Case, Verifier

if TYPE_CHECKING:
    from evodraft.sampling import RandomStream

MakeVerifier = Callable[[], Verifier]
Tokens = tuple[int, ...]

_TARGET = TableLM.random(3, order=1, seed=11)
_DRAFTER = TableLM.random(3, order=1, seed=12)
_PROMPT = (2, 1)
_NUM_SAMPLES = 400
_MIN_P_VALUE = 1e-6


class _Shape(NamedTuple):
    """What kind of draft is judged."""

    name: str
    parents: tuple[int, ...]
    is_drawn: bool = True  # False: chosen, without a law
    ends: frozenset[int] = frozenset()  # nodes that end the text

    @property
    def depth(self) -> int:
        return max((_depth(self.parents, node) for node in range(len(self.parents))), default=0)


_SHAPES = (
    _Shape("no draft", ()),
    _Shape("a drawn chain", (ROOT, 0)),
    _Shape("a chosen chain", (ROOT, 0), is_drawn=False),
    _Shape("a chain that ends the text", (ROOT, 0), ends=frozenset({1})),
    _Shape("a drawn tree", (ROOT, ROOT, 0)),
    _Shape("a chosen tree", (ROOT, ROOT, 0, 1, 1), is_drawn=False),
    _Shape("a tree of which one leaf ends the text", (ROOT, ROOT, 0, 1), is_drawn=False, ends=frozenset({2})),
)


def check_verifier(make: MakeVerifier) -> None:
    """Raises AssertionError unless verifiers from `make` keep the Verifier protocol, and the law if they are `exact`.

    >>> from evodraft.verifiers import CoupledVerifier
    >>> check_verifier(CoupledVerifier)
    """
    is_exact = make().exact
    expect(isinstance(is_exact, bool), f"exact is {is_exact!r}; say True or False")
    for is_seed_chosen in (False, True):
        for shape in _SHAPES:
            if not is_exact:
                _samples(make, shape, is_seed_chosen)
            elif _shares_noise(make(), is_seed_chosen):
                _check_shared_noise(make, shape, is_seed_chosen)
            else:
                _check_enumeration(make, shape, is_seed_chosen)


def _check_enumeration(make: MakeVerifier, shape: _Shape, is_seed_chosen: bool) -> None:
    law = enumerate_outcomes(lambda stream: _output(make(), shape, _request(0, is_seed_chosen), stream))
    expect_same_law(law, _TARGET.joint(_PROMPT, shape.depth + 1), f"the output law after {shape.name}")


def _check_shared_noise(make: MakeVerifier, shape: _Shape, is_seed_chosen: bool) -> None:
    plain = _Shape("no draft", ())
    outputs = _samples(make, shape, is_seed_chosen)
    for seed in range(50):
        undrafted = _output(make(), plain, _request(seed, is_seed_chosen), HashedStream(), shape.depth + 1)
        expect(outputs[seed] == undrafted, f"after {shape.name} {outputs[seed]} came, without a draft {undrafted}")
    wanted = {path: float(mass) for path, mass in _TARGET.joint(_PROMPT, shape.depth + 1).items()}
    p_value = chi_square_p_value(Counter(outputs), wanted)
    expect(p_value > _MIN_P_VALUE, f"frequencies after {shape.name} do not fit the target's law (p = {p_value:.1e})")


def _samples(make: MakeVerifier, shape: _Shape, is_seed_chosen: bool) -> list[Tokens]:
    verifier = make()
    return [_output(verifier, shape, _request(seed, is_seed_chosen), HashedStream()) for seed in range(_NUM_SAMPLES)]


def _shares_noise(verifier: Verifier, is_seed_chosen: bool) -> bool:
    """Whether the same position gets the same draft key twice."""
    request = _request(0, is_seed_chosen)
    keys = RequestKeys(request.seed)
    return verifier.draft_key(request, keys, 3) == verifier.draft_key(request, keys, 3)


def _request(seed: int, is_seed_chosen: bool) -> Request:
    return Request("check", _PROMPT, SamplingParams(temperature=1.0), seed=seed, is_seed_chosen=is_seed_chosen)


def _output(
    verifier: Verifier, shape: _Shape, request: Request, stream: RandomStream, num_tokens: int | None = None
) -> Tokens:
    """The first tokens after the prompt: one draft of the given shape, then rounds without a draft."""
    keys, tokens = RequestKeys(request.seed), list(_PROMPT)
    end = len(_PROMPT) + (shape.depth + 1 if num_tokens is None else num_tokens)
    while len(tokens) < end:
        draft = _draw(verifier, shape, request, keys, tokens, stream)
        laws = _AskedLaws(draft, tokens)
        logits = torch.zeros(draft.num_tokens + 1, _TARGET.vocab_size)
        verdict = verifier.verify(Case(request, keys, len(tokens), draft, Scores(logits, laws, shape.ends)), stream)
        _check_verdict(verdict, draft, laws, shape.ends)
        tokens += verdict.token_ids
        shape = _SHAPES[0]
    return tuple(tokens[len(_PROMPT) : end])


def _draw(
    verifier: Verifier, shape: _Shape, request: Request, keys: RequestKeys, tokens: Sequence[int], stream: RandomStream
) -> Draft:
    drawn: list[int] = []
    laws = []
    for node in range(len(shape.parents)):
        path = _path(shape.parents, node)[:-1]
        law = _DRAFTER.law([*tokens, *(drawn[step] for step in path)])
        if shape.is_drawn:
            key = verifier.draft_key(request, keys, len(tokens) + len(path))
            drawn.append(int(stream.draw(law[None], [key])[0]))
            laws.append(law)
        else:
            drawn.append(node % _TARGET.vocab_size)
    return Draft(tuple(drawn), shape.parents, torch.stack(laws) if laws else None)


@dataclass(slots=True)
class _AskedLaws:
    """The target's laws on one draft; notes what was asked."""

    draft: Draft
    tokens: Sequence[int]
    nodes: list[int] = field(default_factory=list)

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        expect(node not in self.nodes, f"the law after node {node} was asked for twice; processors may hold state")
        wanted = [self.draft.token_ids[step] for step in _path(self.draft.parents, node)]
        expect(list(path) == wanted, f"the law after node {node} was asked for with path {list(path)}, not {wanted}")
        self.nodes.append(node)
        return _TARGET.law([*self.tokens, *path])

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


def _check_verdict(verdict: Verdict, draft: Draft, laws: _AskedLaws, ends: frozenset[int]) -> None:
    last = verdict.path[-1] if verdict.path else ROOT
    expect(list(verdict.path) == _path(draft.parents, last), f"accepted nodes {verdict.path} are no path from the root")
    accepted = tuple(draft.token_ids[node] for node in verdict.path)
    num_tokens = len(accepted) + (last not in ends)
    is_sound = len(verdict.token_ids) == num_tokens and verdict.token_ids[: len(accepted)] == accepted
    expect(is_sound, f"token ids {verdict.token_ids} do not go with the accepted draft tokens {accepted}")
    walked = {ROOT, *verdict.path}
    expect(set(laws.nodes) <= walked, f"laws after nodes {laws.nodes} were asked for, but only {walked} were accepted")


def _path(parents: Sequence[int], node: int) -> list[int]:
    """Nodes from the root down to `node`, the root excluded."""
    path = []
    while node != ROOT:
        path.append(node)
        node = parents[node]
    return path[::-1]


def _depth(parents: Sequence[int], node: int) -> int:
    return len(_path(parents, node))
