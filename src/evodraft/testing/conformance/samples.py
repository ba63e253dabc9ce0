"""Made-up rounds for controllers and learners: drafts of every kind and what became of them.

Does not know who looks at them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from evodraft.types import Commit, Draft, Feedback, Signals, Timings, Verdict, Versions

VOCAB_SIZE = 5
_MAX_TOKENS = 4


def sample_feedback(
    request_id: str, seed: int, *, with_logits: bool = False, versions: Versions = Versions()
) -> Feedback:
    """A round with 0 to 4 draft tokens; every third is chosen without a law, and some are cut by a stop condition.

    >>> sample_feedback("a", seed=1).request_id
    'a'
    """
    generator = torch.Generator().manual_seed(seed)
    token_ids = [_integer(VOCAB_SIZE, generator) for _ in range(seed % (_MAX_TOKENS + 1))]
    has_law = seed % 3 > 0 and bool(token_ids)
    q = torch.rand(len(token_ids), VOCAB_SIZE, generator=generator).softmax(-1) if has_law else None
    signals = [sample_signals(generator) if has_law else None for _ in token_ids]
    num_accepted = _integer(len(token_ids) + 1, generator)
    tokens = (*token_ids[:num_accepted], _integer(VOCAB_SIZE, generator))
    is_cut = seed % 7 == 0
    kept = tokens[:1] if is_cut else tokens
    logits = torch.randn(len(token_ids) + 1, VOCAB_SIZE, generator=generator) if with_logits else None
    return Feedback(
        request_id=request_id,
        scope="shared",
        draft=Draft.chain(token_ids, q, signals, versions),
        verdict=Verdict(tuple(range(num_accepted)), tokens),
        commit=Commit(kept, min(num_accepted, len(kept)), "stop" if is_cut else None),
        is_stale=seed % 5 == 0,
        timings=Timings(draft=0.001 * len(token_ids), score=0.01, batch_size=1 + seed % 2),
        logits=logits,
    )


def sample_feedbacks(request_id: str, num: int, *, with_logits: bool = False) -> Iterator[Feedback]:
    """Rounds of every kind."""
    for seed in range(num):
        yield sample_feedback(request_id, seed, with_logits=with_logits)


def sample_signals(generator: torch.Generator) -> Signals:
    """Signals of a random law."""
    law = torch.randn(VOCAB_SIZE, generator=generator).mul(2).softmax(-1)
    top = law.topk(2).values.tolist()
    entropy = -(law * law.log()).sum().item()
    return Signals(entropy, top[0], top[0] - top[1], law[_integer(VOCAB_SIZE, generator)].item())


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (1,), generator=generator))
