from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from evodraft.drafters.eagle.head import EagleHead, EagleShape
from evodraft.training.rollout import CHUNK_ROWS, Rollout, Targets, divergence, roll_out

VOCABULARY, HIDDEN, SEQUENCE, BATCH = 40, 16, 11, 2


@pytest.fixture
def head() -> EagleHead:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(3)
    return EagleHead(EagleShape(config, target_hidden_size=HIDDEN, taps=(0, 1, 2)))


class NaiveChain:
    """Drafts one token at a time with plain attention over everything the chain has read so far."""

    def __init__(self, head: EagleHead) -> None:
        self.head, self.keys, self.values = head, [], []

    def read(self, embedded: torch.Tensor, features: torch.Tensor) -> torch.Tensor:  # [hidden] each
        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            position = torch.tensor([[len(self.keys)]])
            cos, sin = self.head.rotary_emb(query, position)
            query, key = (part[None, :, None] for part in (query, key))
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            self.keys.append(key[:, :, 0])
            self.values.append(value[None])
            keys, values = torch.stack(self.keys, dim=2), torch.stack(self.values, dim=2)
            return functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)[0, :, 0]

        return self.head.midlayer(embedded, features, attend)


def draft_naively(head, embedded, features, root, num_depths):  # [sequence, hidden] each
    """States of the chain that starts at `root` after it has read true features up to there."""
    chain = NaiveChain(head)
    for index in range(root + 1):
        out = chain.read(embedded[index + 1], features[index])
    states = [head.norm(out)]
    for depth in range(1, num_depths):
        out = chain.read(embedded[root + depth + 1], out)
        states.append(head.norm(out))
    return torch.stack(states)


def random_rows(*, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(BATCH, SEQUENCE, HIDDEN, generator=generator) for _ in range(2))


def line(rollout: Rollout, row: int, root: int, depth: int) -> torch.Tensor:
    found = (rollout.positions == row * SEQUENCE + root + depth + 1) & (rollout.depths == depth)
    return rollout.states[found].squeeze(0)


@pytest.mark.parametrize("roots", [range(SEQUENCE), [0, 3, 4, 7]])
def test_every_chain_is_what_the_head_drafts_step_by_step(head, roots) -> None:
    embedded, features = random_rows()
    num_depths = 4
    rollout = roll_out(head, embedded, features, num_depths, torch.tensor(list(roots)))
    for row in range(BATCH):
        for root in range(SEQUENCE - 1):
            depths = num_depths if root in roots else 1
            depths = min(depths, SEQUENCE - 1 - root)
            expected = draft_naively(head, embedded[row], features[row], root, depths)
            got = torch.stack([line(rollout, row, root, depth) for depth in range(depths)])
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_only_the_given_roots_go_on(head) -> None:
    embedded, features = random_rows()
    rollout = roll_out(head, embedded, features, 3, torch.tensor([0, 8, 9]))
    assert torch.bincount(rollout.depths).tolist() == [BATCH * 10, BATCH * 2, BATCH * 1]
    assert rollout.positions[rollout.depths == 1].tolist() == [2, 10, SEQUENCE + 2, SEQUENCE + 10]


def random_laws(num_lines: int, num_positions: int) -> tuple[Rollout, Targets, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(num_lines, HIDDEN, generator=generator, requires_grad=True)
    positions = torch.randint(num_positions, (num_lines,), generator=generator)
    targets = Targets(
        torch.randn(num_positions, HIDDEN, generator=generator), torch.randn(VOCABULARY, HIDDEN, generator=generator)
    )
    weights = torch.rand(num_lines, generator=generator)
    return Rollout(states, positions, torch.zeros_like(positions)), targets, weights


@pytest.mark.parametrize("num_lines", [1, 7, 3 * CHUNK_ROWS + 5])
def test_divergence_and_its_gradient_are_the_plain_ones(num_lines) -> None:
    rollout, targets, weights = random_laws(num_lines, num_positions=20)
    loss, scores = divergence(rollout, weights, targets)
    (loss * 2).backward()
    gradient = rollout.states.grad.clone()
    rollout.states.grad = None
    log_p = (targets.states @ targets.output.t()).log_softmax(-1)[rollout.positions]
    log_q = (rollout.states @ targets.output.t()).log_softmax(-1)
    plain = functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    (2 * (plain * weights).sum()).backward()
    torch.testing.assert_close(scores.divergence, plain.detach())
    torch.testing.assert_close(loss.detach(), (plain * weights).sum().detach())
    torch.testing.assert_close(gradient, rollout.states.grad)
    torch.testing.assert_close(scores.overlap, torch.minimum(log_p.exp(), log_q.exp()).sum(-1).detach())
    assert torch.equal(scores.agrees, log_p.argmax(-1) == log_q.argmax(-1))


def test_gradients_reach_every_weight_of_the_head_and_nothing_of_the_target(head) -> None:
    embedded, features = random_rows()
    targets = random_laws(3, BATCH * SEQUENCE)[1]
    fused = head.fuse(features.repeat(1, 1, 3))
    rollout = roll_out(head, embedded, fused, 3, torch.arange(SEQUENCE))
    loss, scores = divergence(rollout, torch.ones(len(rollout.states)), targets)
    loss.backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in head.parameters())
    assert not any(score.requires_grad for score in scores)
    assert targets.states.grad is None
