"""Block-sparse attention, the equation spelled once. Materialises T x S: for tests and small inputs."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_kernels.ops.block_sparse_attention.problem import Problem


def visible_keys(problem: Problem) -> Bool[Tensor, "T S"]:
    """True where causality lets query i read key j."""
    grid = problem.grid
    p_T1 = torch.arange(grid.T, device=problem.device)[:, None] + grid.S - grid.T
    j_S = torch.arange(grid.S, device=problem.device)
    return j_S <= p_T1 if grid.causal else torch.ones_like(j_S <= p_T1)


def _logits(q: Tensor, k: Tensor, problem: Problem) -> Float[Tensor, "B H T S"]:
    q, k = q.to(problem.dtype), k.to(problem.dtype)
    return problem.scale * q @ k.repeat_interleave(problem.H // problem.G, dim=1).mT


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    block_mask: Bool[Tensor, "B M nQ nS"],
    problem: Problem,
    with_lse: bool,
) -> tuple[Tensor, ...]:
    """Output [B H T V] and, where asked for, LSE [B H T] in the accumulation dtype.

        S_ij = scale * q_i.k_j where j is visible to i and block (i // block, j // block) is on
        L_i = log sum_j exp(S_ij)        Y_i = sum_j exp(S_ij - L_i) v_j

    Autograd differentiates both. A row that reads no key has Y = 0 and L = -inf.
    """
    grid, heads = problem.grid, problem.H // block_mask.shape[1]
    blocks = block_mask.repeat_interleave(heads, 1)
    tokens = blocks.repeat_interleave(grid.block, 2).repeat_interleave(grid.block, 3)[:, :, : grid.T, : grid.S]
    s = _logits(q, k, problem).masked_fill(~(tokens & visible_keys(problem)), -torch.inf)
    # logsumexp and softmax of a row of -inf have NaN gradients: such rows are computed on zeros, then overwritten.
    empty = (s == -torch.inf).all(-1, keepdim=True)
    s = s.masked_fill(empty, 0.0)
    a = s.softmax(-1).masked_fill(empty, 0.0)
    out = a @ v.to(problem.dtype).repeat_interleave(problem.H // problem.G, dim=1)
    return (out, s.logsumexp(-1).masked_fill(empty[..., 0], -torch.inf)) if with_lse else (out,)


@torch.no_grad()
def block_max(q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], problem: Problem) -> Float[Tensor, "B H nQ nS"]:
    """max of A_ij over the rows i and keys j of each block; 0 where a block holds no visible pair."""
    grid = problem.grid
    hidden = ~visible_keys(problem)
    a = _logits(q, k, problem).masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0.0)
    below, right = grid.nQ * grid.block - grid.T, grid.nS * grid.block - grid.S
    a = torch.nn.functional.pad(a, (0, right, 0, below))
    return a.view(problem.B, problem.H, grid.nQ, grid.block, grid.nS, grid.block).amax((3, 5))
