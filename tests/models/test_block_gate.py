"""The block gate against loops in float64, what it learns, and that it is neither pooled attention nor its ablation."""

from __future__ import annotations

import math

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.layers import BlockGate, BlockGateSpec, BlockRule, distillation_loss
from gatescope.layers.rope import rotate
from gatescope_kernels import block_max_attention, block_sparse_attention, top_blocks
from jaxtyping import TypeCheckError
from torch.nn import functional

B, H, G, T, K, BLOCK = 2, 4, 2, 22, 6, 4
SPEC = BlockGateSpec(n_heads=H, n_kv_heads=G, head_dim=K, block=BLOCK, width=8)


def draw(seed: int = 0, length: int = T) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(B, heads, length, K, generator=generator, dtype=torch.float64) for heads in (H, G))
    return q, k


def gate(**changes) -> BlockGate:
    spec = BlockGateSpec(**{name: getattr(SPEC, name) for name in SPEC.__slots__} | changes)
    return BlockGate(spec, generator=torch.Generator().manual_seed(1)).double()


def turned(x: torch.Tensor, position: int, theta: float) -> torch.Tensor:
    half = len(x) // 2
    z = torch.complex(x[:half], x[half:])
    angle = torch.tensor([position * theta ** (-c / half) for c in range(half)], dtype=torch.float64)
    z = z * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag])


@torch.no_grad()
def spelled(made: BlockGate, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The docstring, one block at a time."""
    spec, rows = made.spec, math.ceil(T / BLOCK)
    out = torch.full((1, H, rows, rows), -math.inf, dtype=torch.float64)
    for h in range(H):
        g = h // (H // G)
        for row in range(rows):
            own = q[0, h, row * BLOCK : (row + 1) * BLOCK].mean(0) @ made.q_weight[h]
            left = turned(own, row * BLOCK, spec.rope_theta)
            for column in range(row + 1):
                keys = k[0, g, column * BLOCK : (column + 1) * BLOCK]
                other = torch.cat([keys.max(0).values, keys.min(0).values]) @ made.k_weight[g]
                right = turned(other, column * BLOCK, spec.rope_theta)
                out[0, h, row, column] = left @ right / math.sqrt(spec.width)
    return out


def test_logits_are_the_equation_spelled_out():
    q, k = (x[:1] for x in draw())
    torch.testing.assert_close(gate()(q, k).detach(), spelled(gate(), q, k))


def test_it_undoes_rope_where_queries_and_keys_have_it():
    q, k = draw()
    found = gate().of_rotated(rotate(q, 500.0), rotate(k, 500.0), 500.0)
    torch.testing.assert_close(found, gate()(q, k))


def test_the_loss_is_the_divergence_of_torch_and_zero_only_at_the_target():
    q, k = draw()
    target = block_max_attention(q, k, block=BLOCK, normalise=True)
    logits = gate()(q, k).detach()
    seen = logits.masked_fill(logits == -math.inf, -1e9).log_softmax(-1)
    wanted = functional.kl_div(seen, target, reduction="none").sum(-1).mean()
    assert float(distillation_loss(logits, target)) == pytest.approx(float(wanted))
    assert float(wanted) > 0.01
    assert float(distillation_loss(target.log(), target)) == pytest.approx(0, abs=1e-12)


def test_gradients_reach_both_weights():
    q, k = (x[:1, :, :6] for x in draw())
    made, target = gate(width=2), block_max_attention(q, k, block=BLOCK, normalise=True)
    weights = made.q_weight.detach().clone().requires_grad_(), made.k_weight.detach().clone().requires_grad_()

    def loss(q_weight, k_weight):
        named = {"q_weight": q_weight, "k_weight": k_weight}
        return distillation_loss(torch.func.functional_call(made, named, (q, k)), target)

    assert torch.autograd.gradcheck(loss, weights)


def pointed(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries that look for keys of one marked block, which lies elsewhere in every sequence."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (0.3 * torch.randn(16, 1, 32, K, generator=generator) for _ in range(2))
    place = torch.randint(0, 6, (16,), generator=generator)
    for b, marked in enumerate(place.tolist()):
        k[b, 0, 4 * marked + 1, 0] -= 6.0  # one key of the block: the mean hides it, the minimum shows it
    q[..., 0] -= 3.0
    return q, k


def overlap(logits: torch.Tensor, target: torch.Tensor) -> float:
    """The share of the target's mass in the 3 blocks a row that a gate chooses."""
    return float((top_blocks(logits, keep=3, block=BLOCK) * target).sum(-1).mean())


def test_distilled_it_finds_blocks_that_neither_chance_nor_an_untrained_gate_nor_mean_pooling_finds():
    spec = BlockGateSpec(n_heads=1, n_kv_heads=1, head_dim=K, block=BLOCK, width=8, rope_theta=None)
    made = BlockGate(spec, generator=torch.Generator().manual_seed(0))
    q, k = pointed(0)
    target = block_max_attention(q, k, block=BLOCK, normalise=True)
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-2)
    for _ in range(40):
        optimiser.zero_grad()
        distillation_loss(made(q, k), target).backward()
        optimiser.step()
    q, k = pointed(1)
    target = block_max_attention(q, k, block=BLOCK, normalise=True)
    with torch.no_grad():
        trained = overlap(made(q, k), target)
        fresh = overlap(BlockGate(spec, generator=torch.Generator().manual_seed(5))(q, k), target)
    mean_q, mean_k = (x.unflatten(2, (-1, BLOCK)).mean(3) for x in (q, k))
    pooled = overlap(mean_q @ mean_k.mT, target)
    chance = overlap(torch.rand(target.shape, generator=torch.Generator().manual_seed(2)), target)
    best = overlap(target, target)
    assert best - trained < 0.1 * (best - max(fresh, chance))
    assert trained >= pooled


def test_rules_are_those_of_the_kernels_and_reach_both_ends():
    q, k = draw()
    v = torch.randn(B, G, T, K, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    logits = gate()(q, k).detach()
    every = BlockRule("share", 1.0).mask(logits, T, BLOCK)
    dense = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, every, block=BLOCK), dense)
    fewest = BlockRule("count", 1).mask(logits, T, BLOCK)
    assert torch.equal(fewest, BlockRule("threshold", 1.0).mask(logits, T, BLOCK))
    assert fewest.sum(-1).unique().tolist() == [1, 2]
    assert torch.equal(BlockRule("threshold", 0.0).mask(logits, T, BLOCK), every)


def test_a_gate_without_places_says_the_same_wherever_a_block_stands():
    q, k = draw()
    twice = torch.cat([k[:, :, :BLOCK], k[:, :, :BLOCK], k[:, :, 2 * BLOCK :]], 2)
    same = gate(rope_theta=None)(q, twice)
    torch.testing.assert_close(same[..., 1:, 0], same[..., 1:, 1])
    placed = gate()(q, twice)
    assert not torch.allclose(placed[..., 1:, 0], placed[..., 1:, 1], atol=1e-3)


def test_refusals():
    q, k = draw()
    with pytest.raises(Refusal, match="a positive multiple"):
        gate(n_heads=3)
    with pytest.raises(Refusal, match="an even width"):
        gate(width=7)
    with pytest.raises(Refusal, match="one whole pass"):
        gate()(q[:, :, -1:], k)
    with pytest.raises((Refusal, TypeCheckError), match="keep"):
        BlockRule("best", 1)
    with pytest.raises(Refusal, match="a whole number of blocks"):
        BlockRule("count", 2.5)
    logits = gate()(q, k)
    with pytest.raises((Refusal, TypeCheckError), match="distillation_loss"):
        distillation_loss(logits, block_max_attention(q, k, block=2))
    with pytest.raises(Refusal, match="no target where"):
        distillation_loss(logits, block_max_attention(q, k, block=BLOCK, causal=False))
