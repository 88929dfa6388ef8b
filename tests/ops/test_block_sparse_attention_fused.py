"""The Triton kernels of block-sparse attention and the lists they follow, against oracles that share no code."""

from __future__ import annotations

import random

import pytest
import torch
from gatescope_kernels import block_max_attention, block_sparse_attention_with_lse
from gatescope_kernels.ops.block_sparse_attention.lists import keys_of_queries, queries_of_keys
from gatescope_kernels.ops.block_sparse_attention.problem import Grid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normal(*shape: int, seed: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def random_mask(*shape: int, seed: int = 0, share: float = 0.5) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share).to(DEVICE)


def tokens(mask: Tensor, H: int, T: int, S: int, block: int, causal: bool) -> Tensor:
    """Which query reads which key, [B H T S]."""
    i, j = torch.arange(T, device=DEVICE)[:, None], torch.arange(S, device=DEVICE)
    on = mask.repeat_interleave(H // mask.shape[1], 1)[:, :, i // block, j // block]
    return on & ((j <= i + S - T) | (not causal))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    T=st.integers(1, 30),
    S=st.integers(1, 30),
    G=st.integers(1, 2),
    per_group=st.integers(1, 2),
    block=st.integers(1, 12),
    causal=st.booleans(),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_lists_name_what_each_block_reads(T, S, G, per_group, block, causal, share) -> None:
    grid = Grid(T, S, block, causal)
    mask = random_mask(2, G * per_group, grid.nQ, grid.nS, share=share).cpu()

    def pairs(a: int, n: int) -> list[bool]:
        """Whether each query of block a reads each key of block n; keys that a short last block lacks are not read."""
        queries, keys = range(a * block, min(a * block + block, T)), range(n * block, n * block + block)
        return [j < S and (not causal or j <= i + S - T) for i in queries for j in keys]

    reads, read_by = keys_of_queries(mask, grid), queries_of_keys(mask, G, grid)
    kinds = {(a, n): (any(pairs(a, n)), all(pairs(a, n))) for a in range(grid.nQ) for n in range(grid.nS)}
    for b, m, a in [(b, m, a) for b in range(2) for m in range(G * per_group) for a in range(grid.nQ)]:
        seen = [n for n in range(grid.nS) if mask[b, m, a, n] and kinds[a, n][0]]
        whole = [n for n in seen if kinds[a, n][1]]
        _, count = reads.ends[b, m, a].tolist()
        assert reads.entries[b, m, a, :count].tolist() == seen
        assert reads.ends[b, m, a, 0] <= len(whole)  # a block that a short query block happens to read whole may be cut
    for b, g, n in [(b, g, n) for b in range(2) for g in range(G) for n in range(grid.nS)]:
        cut, count = read_by.ends[b, g, n].tolist()
        found = read_by.entries[b, g, n, :count].tolist()
        readers = [(m, a) for m in range(per_group) for a in range(grid.nQ)]
        readers = [(m, a) for m, a in readers if mask[b, g * per_group + m, a, n] and kinds[a, n][0]]
        assert sorted(found) == [m * grid.nQ + a for m, a in readers]
        assert all(kinds[entry % grid.nQ, n][1] for entry in found[cut:])


@pytest.mark.parametrize(
    ("T", "S", "H", "G", "M", "block", "causal"),
    [
        (150, 150, 2, 1, 1, 64, True),  # two heads of a group, each block more than one tile
        (70, 200, 2, 2, 2, 32, True),  # a cached prefix
        (100, 90, 3, 1, 3, 48, False),  # blocks that are no power of two
        (5, 130, 4, 2, 2, 16, True),  # fewer queries than a block
    ],
)
def test_equals_torch_with_an_explicit_mask(T, S, H, G, M, block, causal) -> None:
    q, k, v = normal(1, H, T, 20, seed=1), normal(1, G, S, 20, seed=2), normal(1, G, S, 33, seed=3)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    mask = random_mask(1, M, -(-T // block), -(-S // block))
    mask[..., 0] = True
    reads = tokens(mask, H, T, S, block, causal)
    empty = ~reads.any(-1, keepdim=True)
    dense = scaled_dot_product_attention(q, k, v, attn_mask=reads | empty, enable_gqa=True).masked_fill(empty, 0.0)
    out, _ = block_sparse_attention_with_lse(q, k, v, mask, causal=causal, block=block, impl="fused")
    torch.testing.assert_close(out, dense, rtol=2e-5, atol=2e-6)
    upstream = normal(*out.shape, seed=4)
    grads, wanted = (torch.autograd.grad(x, leaves, upstream) for x in (out, dense))
    torch.testing.assert_close(grads, wanted, rtol=2e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("impl", ["blockwise", "fused"])
def test_equals_flex_attention(impl: str) -> None:
    B, H, G, T, block = 1, 4, 2, 70, 16
    q, k, v = normal(B, H, T, 16, seed=1), normal(B, G, T, 16, seed=2), normal(B, G, T, 16, seed=3)
    mask = random_mask(B, H, 5, 5) | torch.eye(5, dtype=torch.bool, device=DEVICE)

    def reads(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & mask[b, h, i // block, j // block]

    blocks = create_block_mask(reads, B, H, T, T, device=DEVICE)
    wanted, more = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True, return_aux=AuxRequest(lse=True))
    out, lse = block_sparse_attention_with_lse(q, k, v, mask, block=block, impl=impl)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(lse, more.lse, rtol=1e-5, atol=2e-6)


def test_a_handful_of_random_calls_equal_blockwise() -> None:
    """Values, gradients of output and LSE, and the block maximum; logits up to the hundreds among them."""
    rng = random.Random(1)
    for seed in range(3):
        G, R = rng.choice(((1, 2), (2, 1), (1, 3)))
        T, S, block = rng.randint(1, 60), rng.randint(1, 60), rng.choice((9, 16, 24, 64))
        K, V, causal = rng.choice((5, 16, 40)), rng.choice((5, 16, 40)), rng.random() < 0.7
        leaves = [normal(1, G * R, T, K, seed=seed, size=rng.choice((1.0, 30.0)))]
        leaves += [normal(1, G, S, K, seed=seed + 50), normal(1, G, S, V, seed=seed + 100)]
        q, k, v = (x.requires_grad_() for x in leaves)
        mask = random_mask(1, rng.choice((G, G * R)), -(-T // block), -(-S // block), seed=seed, share=0.6)
        d_out, d_lse = normal(1, G * R, T, V, seed=5), normal(1, G * R, T, seed=6)
        results = []
        for impl in ("fused", "blockwise"):
            options = {"causal": causal, "block": block, "impl": impl}
            out, lse = block_sparse_attention_with_lse(q, k, v, mask, **options)
            loss = (out * d_out).sum() + (lse.masked_fill(lse == -torch.inf, 0.0) * d_lse).sum()
            largest = block_max_attention(q, k, **options)
            results.append((out, lse, largest, *torch.autograd.grad(loss, (q, k, v))))
        torch.testing.assert_close(*results, rtol=3e-4, atol=3e-4)


def test_a_gradient_of_nan_to_rows_without_a_key_goes_nowhere() -> None:
    """logaddexp of two LSEs of -inf has one."""
    q, k, v = (normal(1, 1, 20, 16, seed=seed).requires_grad_() for seed in range(3))
    mask = torch.tensor([[False, False], [True, False]], device=DEVICE)[None, None]
    for impl in ("blockwise", "fused"):
        out, lse = block_sparse_attention_with_lse(q, k, v, mask, block=16, impl=impl)
        d_lse = torch.where(lse == -torch.inf, torch.nan, 1.0)
        grads = torch.autograd.grad((out, lse), (q, k, v), (torch.ones_like(out), d_lse))
        assert all(grad.isfinite().all() for grad in grads), impl
