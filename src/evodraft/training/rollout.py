"""The roll-out that EAGLE-3 trains on ("training-time test", arXiv 2503.01840), and its loss.

From every root, a position of a row, the head drafts a chain along the row's own tokens and reads its own features
after the first step, as it will when it drafts. Does not know: optimizers, rows, which target the states are of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

if TYPE_CHECKING:
    from evodraft.drafters.eagle.head import Attend, EagleHead

CHUNK_ROWS = 128


class Rollout(NamedTuple):
    """What the head says, one line for each depth of each root."""

    states: torch.Tensor  # [lines, hidden], normalised: the output matrix makes logits of them
    positions: torch.Tensor  # [lines] int64, the position in the flattened rows whose law each line guesses
    depths: torch.Tensor  # [lines] int64, steps since true features


class Scores(NamedTuple):
    """How near the head's law q comes to the target's law p, line by line, at temperature 1."""

    divergence: torch.Tensor  # [lines], KL(p || q) in nats
    overlap: torch.Tensor  # [lines], sum of min(p, q): probability that a sampled draft is accepted
    agrees: torch.Tensor  # [lines] bool, both have the same most probable token


class Targets(NamedTuple):
    """The laws to learn, as the target's last states and the output matrix it shares with the head."""

    states: torch.Tensor  # [positions, hidden]
    output: torch.Tensor  # [vocab, hidden]


def roll_out(
    head: EagleHead,
    embedded: torch.Tensor,  # [batch, sequence, hidden], of the rows' tokens
    features: torch.Tensor,  # [batch, sequence, hidden], fused from the target's
    num_depths: int,
    roots: torch.Tensor,  # [roots] int64 ascending: which positions go on after the first step
) -> Rollout:
    """Depth 0 starts at every position; depth k reads the features of depth k - 1 and the token k positions further."""
    batch, sequence, _ = embedded.shape
    chains = _Chains(head, sequence, embedded)
    starts = torch.arange(sequence, device=embedded.device)
    rows = torch.arange(batch, device=embedded.device)[:, None] * sequence  # [batch, 1]
    states, positions, depths = [], [], []
    for depth in range(num_depths):
        starts = roots if depth == 1 else starts
        starts = starts[starts < sequence - 1 - depth]
        features = features[:, starts] if depth == 1 else features[:, : len(starts)]
        tokens = embedded[:, starts + depth + 1]
        features = head.midlayer(tokens, features, chains.step(starts, depth))
        states.append(head.norm(features).flatten(0, 1))
        positions.append((rows + starts + depth + 1).flatten())
        depths.append(torch.full_like(positions[-1], depth))
    return Rollout(torch.cat(states), torch.cat(positions), torch.cat(depths))


class _Chains:
    """Keys and values of one roll-out: the first step's, which later roots see, and each root's own."""

    def __init__(self, head: EagleHead, sequence: int, like: torch.Tensor) -> None:
        cos, sin = head.rotary_emb(like, torch.arange(sequence, device=like.device)[None])
        self._cos, self._sin = cos[0], sin[0]  # [sequence, head_dim]
        self._trunk: tuple[torch.Tensor, torch.Tensor] | None = None  # [batch, kv_heads, sequence, head_dim]
        self._own: list[tuple[torch.Tensor, torch.Tensor]] = []

    def step(self, starts: torch.Tensor, depth: int) -> Attend:  # starts [roots]
        """Attention of the queries of one depth."""

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            tables = self._cos[starts + depth].to(query.dtype), self._sin[starts + depth].to(query.dtype)
            query, key = apply_rotary_pos_emb(query, key, *(table[None] for table in tables))
            if depth == 0:
                self._trunk = key, value
            else:
                self._own.append((key, value))
            return self._attend(query, starts).transpose(1, 2)

        return attend

    def _attend(self, query: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:  # [batch, heads, roots, head_dim]
        assert self._trunk is not None
        keys, values = self._trunk
        batch, num_heads, num_roots, head_dim = query.shape
        num_groups = keys.shape[1]
        grouped = query.reshape(batch, num_groups, -1, num_roots, head_dim) * head_dim**-0.5
        folded = grouped.flatten(2, 3)  # [batch, kv_heads, heads of a group * roots, head_dim]
        scores = [(folded @ keys.transpose(2, 3)).view(*grouped.shape[:-1], -1) + self._mask(starts, keys)]
        own = [(key[:, :, None, :num_roots], value[:, :, None, :num_roots]) for key, value in self._own]
        scores += [(grouped * key).sum(-1, keepdim=True) for key, _ in own]
        weights = torch.cat(scores, dim=-1).softmax(-1).to(values.dtype)  # of the trunk, then of the chain
        trunk = weights[..., : keys.shape[2]].reshape(batch, num_groups, -1, keys.shape[2])
        mixed = (trunk @ values).view(grouped.shape)
        for index, (_, value) in enumerate(own, start=keys.shape[2]):
            mixed = mixed + weights[..., index : index + 1] * value
        return mixed.reshape(batch, num_heads, num_roots, head_dim)

    @staticmethod
    def _mask(starts: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:  # -> [roots, keys]
        hidden = torch.arange(keys.shape[2], device=keys.device) > starts[:, None]
        return torch.zeros(hidden.shape, dtype=keys.dtype, device=keys.device).masked_fill_(hidden, float("-inf"))


def divergence(
    rollout: Rollout,
    weights: torch.Tensor,  # [lines]
    targets: Targets,
) -> tuple[torch.Tensor, Scores]:
    """Sum of weights times KL(p || q), whose gradients flow to the roll-out's states only, and the scores.

    Matrix products run in the dtype of the targets' states, laws in float32, a few hundred lines at a time.
    """
    untyped: Any = _Divergence  # torch leaves `apply` unannotated
    loss, *scores = untyped.apply(rollout.states, rollout.positions, weights, targets)
    return cast("torch.Tensor", loss), Scores(*scores)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, positions: torch.Tensor, weights: torch.Tensor, targets: Targets
    ) -> tuple[torch.Tensor, ...]:
        output = targets.output.to(targets.states.dtype)
        gradient = torch.empty_like(states)
        kinds = (torch.float32, torch.float32, torch.bool)
        scores = Scores(*(torch.empty(len(states), dtype=kind, device=states.device) for kind in kinds))
        for lines in positions.argsort(stable=True).split(CHUNK_ROWS):  # neighbours share the target's law
            places = positions[lines]
            first, last = int(places[0]), int(places[-1])
            log_p = functional.linear(targets.states[first : last + 1], output).float().log_softmax(-1)
            p = log_p.exp()
            entropy = -_dot(p, log_p)
            places = places - first
            p = p[places]
            log_q = functional.linear(states[lines].to(output.dtype), output).float().log_softmax(-1)
            scores.divergence[lines] = -entropy[places] - _dot(p, log_q)
            scores.agrees[lines] = log_p.argmax(-1)[places] == log_q.argmax(-1)
            slope = log_q.exp_().sub_(p)  # [lines, vocab]
            scores.overlap[lines] = 1 - slope.norm(1, -1) / 2
            gradient[lines] = (slope.to(output.dtype) @ output).to(states.dtype) * weights[lines, None]
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*scores)
        return (scores.divergence @ weights, *scores)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:  # [lines, vocab] each -> [lines]
    return torch.einsum("lv,lv->l", left, right)
