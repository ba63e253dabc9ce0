"""How well a head drafts on rows that it has not learned from: agreement with its target, depth by depth.

Does not know how heads are trained or how rows are chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from evodraft.training.observe import observe
from evodraft.training.rollout import Rollout, Scores, Targets, divergence, roll_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evodraft.drafters.eagle.head import EagleHead

_BATCH: Final = 8


class DepthMeans(NamedTuple):
    """Means over the lines of each depth; `agreement` is the share of equal most probable tokens."""

    divergence: tuple[float, ...]
    overlap: tuple[float, ...]
    agreement: tuple[float, ...]


def depth_means(depths: torch.Tensor, scores: Scores, num_depths: int) -> DepthMeans:  # depths [lines]
    """Rounded to 4 digits; 0 for a depth without lines."""
    counts = torch.bincount(depths, minlength=num_depths).clamp(min=1)
    sums = (torch.bincount(depths, values.float(), num_depths) for values in scores)
    return DepthMeans(*(tuple(round(mean, 4) for mean in (part / counts).tolist()) for part in sums))


@torch.no_grad()
def score_head(
    target: PreTrainedModel,
    head: EagleHead,
    rows: torch.Tensor,  # [rows, sequence] int64
    num_depths: int,
) -> DepthMeans:
    """Over chains from every position, in float32."""
    depths: list[torch.Tensor] = []
    found: list[Scores] = []
    for batch in rows.split(_BATCH):
        rollout, targets = draft_rows(target, head, batch, num_depths, torch.arange(rows.shape[1]))
        depths.append(rollout.depths)
        found.append(divergence(rollout, torch.zeros(len(rollout.depths), device=rollout.depths.device), targets)[1])
    scores = Scores(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    return depth_means(torch.cat(depths), scores, num_depths)


def draft_rows(
    target: PreTrainedModel,
    head: EagleHead,
    rows: torch.Tensor,  # [batch, sequence] int64
    num_depths: int,
    roots: torch.Tensor,  # [roots] int64 ascending
    *,
    is_bfloat16: bool = False,
) -> tuple[Rollout, Targets]:
    """The roll-out of `head` over rows as the target reads them; grows a graph on the head only."""
    rows, roots = rows.to(target.device), roots.to(target.device)
    observed = observe(target, rows, head.shape.taps, is_bfloat16=is_bfloat16)
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=is_bfloat16):
        rollout = roll_out(head, observed.embedded, head.fuse(observed.taps), num_depths, roots)
    return rollout, observed.targets
