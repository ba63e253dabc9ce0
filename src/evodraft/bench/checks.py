"""Whether outputs are what the target says, token by token, whoever made them. Does not know methods or peers.

Every output is fed to the target once more, in one pass. Where the output is determined (temperature 0, or coupled
noise) each token must be the target's own choice there, up to a deficit that rounding explains: a wider pass may run
another kernel (X13). Where it is drawn, each token's place in the target's law is noted, spread over the token's own
mass at random: if the law is right, the places are uniform and independent, which a chi-square test can refute. Single
wrong tokens hardly move it, but they lie further down in the tail than any draw would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import torch

from evodraft.bench.result import Check
from evodraft.errors import BenchError
from evodraft.params import LawParams, SamplingParams
from evodraft.processors import make_processors
from evodraft.sampling import RequestKeys, exponential_noise, to_law
from evodraft.testing.fit import chi_square_p_value
from evodraft.types import Request

if TYPE_CHECKING:
    from evodraft.bench.contestants import Ask
    from evodraft.runtime.base import Decoder

Rule = Literal["greedy", "coupled", "sampled"]

MIN_P_VALUE: Final = 1e-4  # of a row; a run has about a hundred of them
_NUM_BINS: Final = 20
# nats by which rounding may lift one logit over another; bfloat16: up to 0.19 was seen for a single one (docs/log.md)
_TOLERANCE_NATS: Final[Mapping[torch.dtype, float]] = {torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}


class Finding(NamedTuple):
    """What the target says of one output."""

    deficits: tuple[float, ...] = ()  # nats from the target's choice down to each token; determined outputs
    places: tuple[float, ...] = ()  # of each token in the target's law, 0 .. 1; drawn outputs
    tails: tuple[float, ...] = ()  # 1 - place, exact where it is tiny


@dataclass(frozen=True, slots=True)
class Judge:
    """Feeds outputs to the target and compares.

    Args:
        decoder: the target; slot 0 must be free.
        vocab_size: columns of the target's laws.
        dtype: in which the contestants calculate.
    """

    decoder: Decoder
    vocab_size: int
    dtype: torch.dtype

    def find(self, ask: Ask, output: Sequence[int], rule: Rule) -> Finding:
        """What the target says of `output`, the stop token included, as a continuation of `ask`."""
        if not output:
            return Finding()
        scores = self._processed(ask, output, self._logits(ask, output))
        if rule == "sampled":
            return _place(scores, output, ask)
        if rule == "coupled" and ask.temperature > 0:
            scores = scores / ask.temperature - _coupled_noise(ask, len(output), self.vocab_size).log()
        chosen = scores.gather(-1, torch.tensor(output)[:, None])[:, 0]
        return Finding(deficits=tuple((scores.amax(dim=-1) - chosen).tolist()))

    def tolerance(self, temperature: float, rule: Rule) -> float:
        """Largest deficit that rounding explains, in nats of what decides."""
        limit = _TOLERANCE_NATS.get(self.dtype, max(_TOLERANCE_NATS.values()))
        return limit / temperature if rule == "coupled" else limit

    def _logits(self, ask: Ask, output: Sequence[int]) -> torch.Tensor:
        """Raw logits [output, vocab] in float32 before each output token."""
        prompt, last = list(ask.token_ids[:-1]), [ask.token_ids[-1], *output[:-1]]
        if len(prompt) + len(last) > self.decoder.max_length:
            raise BenchError(
                f"{len(prompt) + len(last)} tokens do not fit the target's {self.decoder.max_length}; "
                "use shorter prompts or a lower --max-new-tokens"
            )
        try:
            if prompt:
                self.decoder.forward(torch.tensor([prompt]), [len(prompt)], [0], want_logits=False)
            logits = self.decoder.forward(torch.tensor([last]), [len(last)], [0]).logits
        finally:
            self.decoder.release(0)
        assert logits is not None
        return logits[0, :, : self.vocab_size].float().cpu()

    def _processed(self, ask: Ask, output: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """The same after the ask's logits processors, each position with its own prefix."""
        params = SamplingParams(repetition_penalty=ask.repetition_penalty)
        processors = make_processors(Request("check", ask.token_ids, params, seed=ask.seed))
        if not processors:
            return logits
        ids = torch.tensor([[*ask.token_ids, *output]])
        rows = []
        for position in range(len(output)):
            row = logits[position : position + 1]
            for processor in processors:
                row = processor(ids[:, : len(ask.token_ids) + position], row)
            rows.append(row)
        return torch.cat(rows)


def check_determined(
    findings: Sequence[Finding], tolerance: float, num_identical: int | None, *, is_exact: bool = True
) -> Check:
    """Equality: no token of any output further from the target's choice than `tolerance` nats."""
    worst = max((deficit for finding in findings for deficit in finding.deficits), default=0.0)
    return Check(
        "equality" if is_exact else "none",
        is_passed=worst <= tolerance or not is_exact,
        num_identical=num_identical,
        num_outputs=len(findings),
        worst_deficit_nats=worst,
        tolerance_nats=tolerance,
    )


def check_drawn(findings: Sequence[Finding], *, is_exact: bool = True) -> Check:
    """Distribution: the places of all tokens in the target's laws are uniform, and none is too far down in the tail.

    Two tests, so that each gets half of the errors that are allowed.
    """
    places = [place for finding in findings for place in finding.places]
    tails = [tail for finding in findings for tail in finding.tails]
    p_value = min(1.0, 2 * min(uniformity_p_value(places), least_p_value(tails)))
    return Check(
        "distribution" if is_exact else "none",
        is_passed=p_value >= MIN_P_VALUE or not is_exact,
        num_outputs=len(findings),
        p_value=p_value,
    )


def uniformity_p_value(places: Sequence[float]) -> float:
    """Probability of places at least as uneven, if they were uniform on 0 .. 1.

    >>> uniformity_p_value([0.01] * 200)
    0.0
    """
    counts = dict.fromkeys(range(_NUM_BINS), 0)
    for place in places:
        counts[min(int(place * _NUM_BINS), _NUM_BINS - 1)] += 1
    return chi_square_p_value(counts, dict.fromkeys(counts, 1 / _NUM_BINS))


def least_p_value(tails: Sequence[float]) -> float:
    """Probability that the least of so many uniform numbers is at most as small.

    >>> least_p_value([0.5, 0.5, 0.5, 0.125]), least_p_value([])
    (0.5, 1.0)
    """
    return min(1.0, len(tails) * min(tails)) if tails else 1.0


def _place(scores: torch.Tensor, output: Sequence[int], ask: Ask) -> Finding:
    """Mass of likelier tokens, plus a random share of that of equally likely ones; and what is left of 1."""
    laws = to_law(scores, LawParams(temperature=ask.temperature))  # [output, vocab]
    own = laws.gather(-1, torch.tensor(output)[:, None])
    likelier, alike, rarer = (
        torch.where(is_one, laws, 0.0).sum(dim=-1) for is_one in (laws > own, laws == own, laws < own)
    )
    share = torch.rand(len(output), generator=torch.Generator().manual_seed(ask.seed))
    return Finding(
        places=tuple((likelier + share * alike).tolist()), tails=tuple((rarer + (1 - share) * alike).tolist())
    )


def _coupled_noise(ask: Ask, num_tokens: int, vocab_size: int) -> torch.Tensor:
    """Noise [tokens, vocab] of the absolute positions after the prompt."""
    keys, start = RequestKeys(ask.seed), len(ask.token_ids)
    return exponential_noise([keys.coupled(start + position) for position in range(num_tokens)], vocab_size)
