"""The largest attention probability of every block, strip by strip, without T x S."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope_kernels.ops.block_sparse_attention.problem import Problem, pad_rows

#: Scores in one strip: query blocks of as many heads as fit, against every key they see.
ELEMENTS = 1 << 20


@torch.no_grad()
def block_max(q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], problem: Problem) -> Float[Tensor, "B H nQ nS"]:
    """max of A_ij over the rows i and keys j of each block; 0 where a block holds no visible pair.

    A strip is one query block against every key block it sees: whole rows, so their softmax is final.
    """
    grid, N, R = problem.grid, problem.B * problem.G, problem.H // problem.G
    block, shift = grid.block, grid.S - grid.T
    q = q.to(problem.dtype).reshape(N, R, grid.T, -1)
    k = pad_rows(k.to(problem.dtype), grid.nS * block).reshape(N, grid.nS * block, -1)
    found = q.new_zeros(N, R, grid.nQ, grid.nS)
    j = torch.arange(grid.nS * block, device=problem.device)
    for row, i0 in enumerate(range(0, grid.T, block)):
        i1 = min(i0 + block, grid.T)
        i0 = max(i0, -shift) if grid.causal else i0  # rows before it stand before the first key
        if i0 >= i1:
            continue
        columns = (i1 - 1 + shift) // block + 1 if grid.causal else grid.nS
        width = columns * block
        # Columns from ``cut`` on are hidden from some row.
        cut = (i0 + shift) // block * block if grid.causal else grid.S // block * block
        last = torch.arange(i0 + shift, i1 + shift, device=problem.device)[:, None] if grid.causal else grid.S - 1
        hidden = j[cut:width] > last
        n = min(N, max(1, ELEMENTS // (R * (i1 - i0) * width)))
        for n0 in range(0, N, n):
            rows = q[n0 : n0 + n, :, i0:i1].reshape(-1, R * (i1 - i0), q.shape[-1])
            s = torch.bmm(rows, k[n0 : n0 + n, :width].mT).mul_(problem.scale)
            s.view(-1, R, i1 - i0, width)[..., cut:].masked_fill_(hidden, -torch.inf)
            a = torch.softmax(s, -1, out=s)
            largest = a.view(-1, R, i1 - i0, columns, block).amax(-1).amax(2)
            found[n0 : n0 + n, :, row, :columns] = largest
    return found.view(problem.B, problem.H, grid.nQ, grid.nS)
