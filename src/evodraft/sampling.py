"""Logits to laws, residuals, and keyed noise: every random choice of the project is made here.

One function makes target and draft laws (X3). Noise is a pure function of a key, so who shares a batch cannot change
it (X4), and a key is never used twice (X14) except on purpose in coupled verification (X12, X15). This module does
not know drafts, sessions or models.

Papers: speculative sampling (arXiv 2211.17192, 2302.01318); coupling by shared Gumbel noise (arXiv 2408.07978).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch

from evodraft.types import Signals

if TYPE_CHECKING:
    from evodraft.params import LawParams

Purpose = Literal["draft", "accept", "recover", "coupled"]

_MULTIPLIER_1 = 0x7FEB352D  # lowbias32, a 32-bit mixer of low bias (C. Wellons)
_MULTIPLIER_2 = 0x846CA68B - 2**32
_NUM_CANDIDATES = 1024  # among which the nucleus of top-p is looked for first
_LOWEST_TEMPERATURE = 1e-30  # a float32 divisor that is not rounded to zero
_LARGEST_UNIFORM = 1.0 - 2.0**-24  # largest float32 below one, so that -log(1 - u) is finite


# --- laws ---------------------------------------------------------------------------------------------------------


def to_law(logits: torch.Tensor, params: LawParams) -> torch.Tensor:
    """The law that tokens are drawn from: temperature, top-k, top-p, min-p in transformers' order, then softmax.

    `logits` [..., vocab] of any float type; the result [..., vocab] is float32 (float64 for float64). Temperature 0
    is the one-hot law of the largest logit, ties to the lowest id.

    >>> from evodraft.params import LawParams
    >>> to_law(torch.tensor([0.0, 1.0]), LawParams(temperature=0.0)).tolist()
    [0.0, 1.0]
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if params.temperature == 0.0:
        best = scores.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(scores).scatter_(-1, best, 1.0)
    if params.temperature != 1.0:
        # the largest score first becomes 0, so that no temperature makes it infinite
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / max(params.temperature, _LOWEST_TEMPERATURE)
    if 0 < params.top_k < scores.shape[-1]:
        kth = scores.topk(params.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if params.top_p < 1.0:
        scores = _cut_top_p(scores, params.top_p)
    law = scores.softmax(dim=-1)
    if params.min_p > 0.0:
        law = law.masked_fill(law < params.min_p * law.amax(dim=-1, keepdim=True), 0.0)
        law = law / law.sum(dim=-1, keepdim=True)
    return law


def to_laws(logits: torch.Tensor, params: Sequence[LawParams | None]) -> dict[int, torch.Tensor]:
    """Laws of batch rows by row number; `logits` [batch, ..., vocab], rows of equal parameters together.

    None leaves a row out.
    """
    groups: dict[LawParams, list[int]] = {}
    for row, law_params in enumerate(params):
        if law_params is not None:
            groups.setdefault(law_params, []).append(row)
    laws: dict[int, torch.Tensor] = {}
    for law_params, rows in groups.items():
        together = logits if len(rows) == logits.shape[0] else logits[rows]
        laws.update(zip(rows, to_law(together, law_params), strict=True))
    return laws


def _cut_top_p(scores: torch.Tensor, top_p: float, num_candidates: int = _NUM_CANDIDATES) -> torch.Tensor:
    """Keeps the smallest set of most likely tokens whose mass reaches `top_p`; ties go to the lowest id.

    Looks among the `num_candidates` most likely tokens and sorts the vocabulary only for rows where they do not
    suffice: sorting 152k ids takes ten times as long. A row's result does not depend on the others.
    """
    if scores.shape[-1] <= num_candidates:
        return _cut_top_p_by_sorting(scores, top_p)
    rows = scores.reshape(-1, scores.shape[-1])
    law = rows.softmax(dim=-1)
    best = law.topk(num_candidates, dim=-1).values
    mass_before = best.cumsum(dim=-1) - best
    num_kept = (mass_before < top_p).sum(dim=-1, keepdim=True)
    least = best.gather(-1, num_kept - 1)
    is_tied = law == least
    room = num_kept - (law > least).sum(dim=-1, keepdim=True)
    is_kept = (law > least) | (is_tied & (is_tied.cumsum(dim=-1) <= room))
    cut = rows.masked_fill(~is_kept, -torch.inf)
    is_short = mass_before[:, -1] + best[:, -1] < top_p
    if bool(is_short.any()):
        cut[is_short] = _cut_top_p_by_sorting(rows[is_short], top_p)
    return cut.reshape(scores.shape)


def _cut_top_p_by_sorting(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """The reference of `_cut_top_p`."""
    law, order = scores.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    mass_before = law.cumsum(dim=-1) - law
    is_cut = (mass_before >= top_p).scatter(-1, order, mass_before >= top_p)
    return scores.masked_fill(is_cut, -torch.inf)


class Residual(NamedTuple):
    """Weights to recover from after a rejection, not normalised."""

    weights: torch.Tensor  # [vocab]
    is_fallback: bool  # nothing was left in floating point (X8); the weights are then p itself


def residual(p: torch.Tensor, q: torch.Tensor) -> Residual:
    """(p - q)+ for weights `p` and `q` [vocab] of equal total, or `p` where rounding leaves nothing.

    >>> residual(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])).weights.tolist()
    [0.0, 0.5]
    """
    weights = (p - q).clamp_(min=0.0)
    if not bool(weights.any()):
        return Residual(p, True)
    return Residual(weights, False)


def raw_signals(logits: torch.Tensor, token_ids: torch.Tensor) -> list[Signals]:
    """Signals of drawn `token_ids` [batch] under raw `logits` [batch, vocab]."""
    log_law = logits.float().log_softmax(dim=-1)
    law = log_law.exp()
    entropy = -(law * log_law.clamp(min=torch.finfo(law.dtype).min)).sum(dim=-1)
    top = law.topk(min(2, law.shape[-1]), dim=-1).values
    drawn = law.gather(-1, token_ids[:, None])[:, 0]
    second = top[:, -1] if top.shape[-1] > 1 else torch.zeros_like(drawn)
    table = torch.stack([entropy, top[:, 0], top[:, 0] - second, drawn], dim=-1).tolist()
    return [Signals(*row) for row in table]


# --- keyed noise --------------------------------------------------------------------------------------------------


class NoiseKey(NamedTuple):
    """Names one use of randomness. `ordinal` counts draws of a request, or is the absolute position if coupled."""

    seed: int
    sample_index: int
    purpose: Purpose
    ordinal: int


@dataclass(slots=True)
class RequestKeys:
    """Issues the keys of one request; owned by its session."""

    seed: int
    sample_index: int = 0
    num_issued: int = 0

    def next(self, purpose: Purpose) -> NoiseKey:
        """A key never issued before (X14)."""
        self.num_issued += 1
        return NoiseKey(self.seed, self.sample_index, purpose, self.num_issued)

    def coupled(self, position: int) -> NoiseKey:
        """The key of an absolute position, the same for draft and target (X15)."""
        return NoiseKey(self.seed, self.sample_index, "coupled", position)


KeyWords = Callable[[Sequence[NoiseKey]], list[tuple[int, int]]]
"""`HashedStream.key_words`."""


class RandomStream(Protocol):
    """Turns keys into choices. The enumerating double of evodraft.testing walks all of them instead.

    A stream whose noise is that of `hashed_uniform` may also have a method `key_words`, so that others can make it.
    """

    def draw(self, weights: torch.Tensor, keys: Sequence[NoiseKey], ids: torch.Tensor | None = None) -> torch.Tensor:
        """Columns [batch] (int64), row r with probability proportional to `weights` [batch, columns] under keys[r].

        `ids` [columns] int64: the tokens that the columns stand for; None = column is id.
        """
        ...

    def noise(self, keys: Sequence[NoiseKey], like: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """The noise [batch, columns] that `draw` sets against weights like `like` [batch, columns]."""
        ...

    def accept(self, p: float, q: float, key: NoiseKey) -> bool:
        """True with probability min(1, p / q)."""
        ...


Uniform = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Two int32 words per key [batch, 2] and int32 token ids [ids] -> float32 [batch, ids], as `hashed_uniform` gives."""


def hashed_uniform(key_words: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Numbers between 0 and 1, both excluded, each a hash of its key and token id."""
    hashed = _mix(_mix(ids + key_words[:, :1]) ^ key_words[:, 1:])
    high = ((hashed >> 8) & 0xFFFFFF).float()
    low = (hashed & 0xFF).float()
    return (high * 2.0**-24 + (low + 0.5) * 2.0**-32).clamp_(max=_LARGEST_UNIFORM)


@dataclass(frozen=True, slots=True)
class HashedStream:
    """Counter-based noise: a hash of the key, without state. `uniform` may be a faster one with the same bits."""

    uniform: Uniform = hashed_uniform

    def draw(self, weights: torch.Tensor, keys: Sequence[NoiseKey], ids: torch.Tensor | None = None) -> torch.Tensor:
        """An exponential race: argmin of E / weight, ties to the lowest id; a weight of zero never wins."""
        if weights.device.type == "cpu" and _is_one_hot(weights):
            return weights.argmax(dim=-1)  # what the race would say, without its noise
        return (self.noise(keys, weights, ids) / weights).argmin(dim=-1)

    def noise(self, keys: Sequence[NoiseKey], like: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """`exponential_noise` for the columns of `like` [batch, columns]."""
        words = None if ids is None else ids.to(torch.int32)
        return exponential_noise(keys, like.shape[-1], like.device, words, self.uniform)

    def key_words(self, keys: Sequence[NoiseKey]) -> list[tuple[int, int]]:  # [batch] of int32
        """What `hashed_uniform` knows of each key."""
        return [_words(key) for key in keys]

    def accept(self, p: float, q: float, key: NoiseKey) -> bool:
        if not 0.0 < p < q:
            return p > 0.0  # certain either way, without its noise
        uniform = (_digest(key) >> 11) * 2.0**-53
        return uniform * q < p


def exponential_noise(
    keys: Sequence[NoiseKey],
    num_ids: int,
    device: torch.device | str = "cpu",
    ids: torch.Tensor | None = None,
    uniform: Uniform = hashed_uniform,
) -> torch.Tensor:
    """Exponential(1) noise [batch, ids] in float32; a token id has the same noise on any subset `ids` (int32).

    Positive and finite everywhere, so that a race E / weight is never NaN. 32-bit arithmetic only (X15).
    """
    key_words = torch.tensor([_words(key) for key in keys], dtype=torch.int32, device=device)  # [batch, 2]
    if ids is None:
        ids = torch.arange(num_ids, dtype=torch.int32, device=device)
    return uniform(key_words, ids).neg_().log1p_().neg_()


def _is_one_hot(weights: torch.Tensor) -> bool:
    return int(weights.count_nonzero()) == weights.shape[0]


def _mix(words: torch.Tensor) -> torch.Tensor:
    """Mixes 32-bit words; overwrites its argument, which saves half of the time."""
    words ^= (words >> 16) & 0xFFFF
    words *= _MULTIPLIER_1
    words ^= (words >> 15) & 0x1FFFF
    words *= _MULTIPLIER_2
    words ^= (words >> 16) & 0xFFFF
    return words


def _digest(key: NoiseKey) -> int:
    text = f"{key.seed}/{key.sample_index}/{key.purpose}/{key.ordinal}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _words(key: NoiseKey) -> tuple[int, int]:
    digest = _digest(key)
    return _signed(digest >> 32), _signed(digest & 0xFFFFFFFF)


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
