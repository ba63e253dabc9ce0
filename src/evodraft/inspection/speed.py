"""How much a draft model can help at best, from what it costs. Leviathan et al., arXiv 2211.17192.

Does not know models: a cost ratio goes in, a factor comes out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

ASSUMED_ACCEPTANCE: Final = 0.8  # what a draft of the same family may reach on easy text
_MOST_DRAFT_TOKENS: Final = 20


class BestCase(NamedTuple):
    """The draft length that pays most, and what it pays."""

    speed_up: float
    num_draft_tokens: int


def expected_speed_up(acceptance: float, cost_ratio: float, num_draft_tokens: int) -> float:
    """Expected speed-up over plain decoding: (1 - a^(k+1)) / ((1 - a) (1 + c k)), theorem 3.8 of the paper.

    A round commits (1 - a^(k+1)) / (1 - a) tokens if each of k draft tokens is accepted with probability a,
    independently, and takes 1 + c k times as long as a pass of the target. It assumes that a pass over k + 1 tokens
    takes as long as one over a single token, which holds as long as reading the weights is what takes the time.

    Args:
        acceptance: a, from 0 to 1.
        cost_ratio: c, time of a pass of the draft / of the target.
        num_draft_tokens: k.

    >>> round(expected_speed_up(0.8, 0.05, 5), 2)
    2.95
    """
    tokens = sum(acceptance**number for number in range(num_draft_tokens + 1))
    return tokens / (1 + cost_ratio * num_draft_tokens)


def best_case(acceptance: float, cost_ratio: float) -> BestCase:
    """The largest expected speed-up over all draft lengths of at least one token.

    >>> best_case(0.8, 1.0).speed_up < 1  # a draft as large as its target cannot help
    True
    """
    lengths = range(1, _MOST_DRAFT_TOKENS + 1)
    return max(BestCase(expected_speed_up(acceptance, cost_ratio, length), length) for length in lengths)
