"""Plain decoding from its definition, token by token: what every engine's output is compared with.

Shares with the product only the law of one row (`to_law`), the list of processors, and the noise. Does not know
drafts, verifiers, batches or caches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from evodraft.processors import make_processors
from evodraft.sampling import RequestKeys, exponential_noise, to_law
from evodraft.testing.enumeration import as_fraction

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey
    from evodraft.testing.table import TableLM
    from evodraft.types import Request

Tokens = tuple[int, ...]
JointLaw = dict[Tokens, Fraction]
MakeRequest = Callable[[], "Request"]
"""Makes the same request anew: processors and stop checks may hold state."""


def plain_law(table: TableLM, make: MakeRequest) -> JointLaw:
    """Exact probability of every output of a request, a final stop token included.

    >>> from evodraft.params import SamplingParams
    >>> from evodraft.testing.table import TableLM
    >>> from evodraft.types import Request
    >>> table = TableLM(torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.float64), order=1)
    >>> plain_law(table, lambda: Request("a", (0,), SamplingParams(max_new_tokens=2, temperature=1.0), seed=0))
    {(0, 0): Fraction(1, 16), (0, 1): Fraction(3, 16), (1, 0): Fraction(3, 4)}
    """
    finished: JointLaw = defaultdict(Fraction)
    open_paths: JointLaw = {(): Fraction(1)}
    while open_paths:
        longer: JointLaw = {}
        for path, mass in open_paths.items():
            for token_id, probability in enumerate(_next_law(table, make(), path).tolist()):
                if probability > 0:
                    longer[(*path, token_id)] = mass * as_fraction(probability)
        open_paths = {}
        for path, mass in longer.items():
            (finished if _is_end(make(), path) else open_paths)[path] = mass
    return dict(finished)


def coupled_tokens(table: TableLM, make: MakeRequest) -> Tokens:
    """The one output of a request under noise keyed by position: argmin(E / p), token by token.

    >>> from evodraft.params import SamplingParams
    >>> from evodraft.testing.table import TableLM
    >>> from evodraft.types import Request
    >>> params = SamplingParams(max_new_tokens=3, temperature=1.0)
    >>> coupled_tokens(TableLM.random(seed=1), lambda: Request("a", (0,), params, seed=7))
    (0, 1, 2)
    """
    path: Tokens = ()
    while not path or not _is_end(make(), path):
        request = make()
        law = _next_law(table, request, path)
        key = RequestKeys(request.seed, request.sample_index).coupled(len(request.token_ids) + len(path))
        race = [noise / p if p > 0 else float("inf") for noise, p in zip(_noise(key, law), law.tolist(), strict=True)]
        path = (*path, race.index(min(race)))
    return path


def product_law(*laws: Mapping[Tokens, Fraction]) -> dict[tuple[Tokens, ...], Fraction]:
    """The joint law of independent outputs.

    >>> product_law({(0,): Fraction(1, 2), (1,): Fraction(1, 2)}, {(2,): Fraction(1)})
    {((0,), (2,)): Fraction(1, 2), ((1,), (2,)): Fraction(1, 2)}
    """
    joint: dict[tuple[Tokens, ...], Fraction] = {(): Fraction(1)}
    for law in laws:
        joint = {(*paths, path): mass * more for paths, mass in joint.items() for path, more in law.items()}
    return joint


def _next_law(table: TableLM, request: Request, path: Sequence[int]) -> torch.Tensor:
    """Law [vocab] after `path`; the request's processors are led along the whole path first."""
    processors = make_processors(request)
    starts = range(len(path) + 1) if processors else [len(path)]
    for length in starts:
        tokens = [*request.token_ids, *path[:length]]
        scores = table.law(tokens).log()[None]
        for processor in processors:
            scores = processor(torch.tensor([tokens]), scores)
    return to_law(scores[0], request.params.law)


def _is_end(request: Request, path: Sequence[int]) -> bool:
    """Whether the last token of `path` ends the request; earlier ones did not."""
    params = request.params
    if path[-1] in request.stop_token_ids and len(path) > params.min_new_tokens:
        return True
    hits = [
        any(check([*request.token_ids, *path[:length]]) for check in request.stop_checks)
        for length in range(1, len(path) + 1)
    ]
    return (hits[-1] and len(path) >= params.min_new_tokens) or len(path) >= params.max_new_tokens


def _noise(key: NoiseKey, law: torch.Tensor) -> list[float]:
    noise: list[float] = exponential_noise([key], law.shape[-1])[0].tolist()
    return noise
