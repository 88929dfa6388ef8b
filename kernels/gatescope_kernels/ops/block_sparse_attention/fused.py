"""Block-sparse attention in Triton: what is launched, at which tile sizes, and what autograd keeps."""

from __future__ import annotations

from typing import Any

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops._launch import channels_last, launch, padded, precision, target
from gatescope_kernels.ops.block_sparse_attention.fused_backward import sparse_backward_keys, sparse_backward_queries
from gatescope_kernels.ops.block_sparse_attention.fused_block_max import block_maxima, row_maxima
from gatescope_kernels.ops.block_sparse_attention.fused_forward import sparse_forward
from gatescope_kernels.ops.block_sparse_attention.fused_tiles import LN_2, LOG2_E
from gatescope_kernels.ops.block_sparse_attention.lists import Lists, keys_of_queries, queries_of_keys
from gatescope_kernels.ops.block_sparse_attention.problem import Problem

Tile = tuple[int, int, int]

#: Rows, keys and warps of a tile by kernel, where a head has up to 256 bytes a row, and up to 512. None of them spills.
_HALF: dict[str, tuple[Tile, Tile]] = {
    "forward": ((128, 64, 8), (64, 32, 8)),
    "backward_queries": ((64, 32, 4), (32, 32, 4)),
    "backward_keys": ((32, 64, 4), (16, 32, 4)),
    "row_maxima": ((128, 64, 8), (64, 32, 4)),
}
_SINGLE: dict[str, tuple[Tile, Tile]] = {
    "forward": ((32, 32, 4), (16, 16, 4)),
    "backward_queries": ((32, 32, 8), (16, 16, 4)),
    "backward_keys": ((16, 32, 4), (16, 16, 4)),
    "row_maxima": ((64, 32, 4), (32, 16, 4)),
}
#: Tensor cores that take their operands from shared memory leave registers for more keys.
_FROM_SHARED = {"sm_90", "sm_100", "sm_103"}


def _tile(kernel: str, x: Tensor, width: int, rows: int, block: int) -> dict[str, int]:
    """Rows and keys of a tile, its warps and stages, for heads of ``width`` channels, ``rows`` rows that share a list
    and key blocks of ``block``."""
    own_block = kernel in {"backward_keys", "row_maxima"}  # a tile's keys lie in one block there
    machine = target(x)
    if machine.name == "interpreter":
        return {"ROWS": min(64, padded(rows)), "KEYS": min(64, padded(block)) if own_block else 64}
    half, narrow = x.element_size() == 2, padded(width) * x.element_size() <= 256
    ROWS, KEYS, warps = (_HALF if half else _SINGLE)[kernel][0 if narrow else 1]
    if half and narrow:
        if kernel == "forward" and rows < ROWS:
            ROWS, KEYS, warps = 64, 32, 4
        if kernel in {"forward", "backward_queries"} and machine.name in _FROM_SHARED:
            KEYS = 64
        if kernel == "backward_keys" and machine.backend == "cuda" and machine.name not in {"sm_100", "sm_103"}:
            ROWS, warps = 64, 8
    return {
        "ROWS": min(ROWS, padded(rows)),
        "KEYS": min(KEYS, padded(block)) if own_block else KEYS,
        "warps": warps,
        "stages": 2,
    }


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    block_mask: Bool[Tensor, "B M nQ nS"],
    problem: Problem,
    with_lse: bool,
) -> tuple[Tensor, ...]:
    """Output [B H T V] in q's dtype and, where asked for, the LSE [B H T]. Differentiable once."""
    return _Attend.apply(q, k, v, block_mask, problem, with_lse)


class _Attend(torch.autograd.Function):
    """Kept for the backward: the arguments, the output and L. The lists are made again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, block_mask: Tensor, problem: Problem, with_lse: bool
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.problem = problem
        q, k, v = (channels_last(x) for x in (q, k, v))
        launches = _Launches(q, k, v, block_mask.shape[1], problem)
        out, lse = launches.forward(keys_of_queries(block_mask, problem.grid))
        ctx.save_for_backward(q, k, v, block_mask, out, lse)
        return (out, lse * LN_2) if with_lse else (out,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None = None) -> tuple[Tensor | None, ...]:
        q, k, v, block_mask, out, lse = ctx.saved_tensors
        grid = ctx.problem.grid
        d_out = torch.zeros_like(out) if d_out is None else channels_last(d_out)
        d_lse = None if d_lse is None else d_lse.contiguous()
        launches = _Launches(q, k, v, block_mask.shape[1], ctx.problem)
        dq, delta = launches.backward_queries(keys_of_queries(block_mask, grid), out, lse, d_out, d_lse)
        dk, dv = launches.backward_keys(queries_of_keys(block_mask, k.shape[1], grid), lse, d_out, delta)
        return dq, dk, dv, None, None, None


class _Launches:
    """The three kernels of attention on one set of inputs."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, masks: int, problem: Problem) -> None:
        grid = problem.grid
        self.q, self.k, self.v, self.problem = q, k, v, problem
        self.K, self.V = q.shape[3], v.shape[3]
        self.heads = problem.H // masks
        self.strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
        self.sizes = (masks, problem.G, grid.T, grid.S, grid.nQ, grid.nS)
        self.scale = problem.scale * LOG2_E
        self.query_blocks = problem.B * masks * grid.nQ
        self.key_blocks = problem.B * problem.G * grid.nS
        self.rows = self.heads * grid.tile
        self.constants: dict[str, Any] = {
            "K": self.K,
            "V": self.V,
            "KP": padded(self.K),
            "VP": padded(self.V),
            "BLOCK": grid.block,
            "TILE": grid.tile,
            "R": self.heads,
            "CAUSAL": grid.causal,
            "PRECISION": precision(q),
        }

    def _tile(self, kernel: str) -> dict[str, int]:
        return _tile(kernel, self.q, max(self.K, self.V), self.rows, self.problem.grid.block)

    def forward(self, lists: Lists) -> tuple[Tensor, Tensor]:
        """Output and L log2(e)."""
        q, tile = self.q, self._tile("forward")
        out = torch.empty(*q.shape[:3], self.V, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        programs = self.query_blocks * -(-self.rows // tile["ROWS"])
        tensors = (q, self.k, self.v, lists.entries, lists.ends, out, lse)
        launch(sparse_forward, (programs,), *tensors, *self.strides, *self.sizes, self.scale, **tile, **self.constants)
        return out, lse

    def backward_queries(
        self, lists: Lists, out: Tensor, lse: Tensor, d_out: Tensor, d_lse: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dq and D."""
        q, tile = self.q, self._tile("backward_queries")
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        delta = torch.empty_like(lse)
        programs = self.query_blocks * -(-self.rows // tile["ROWS"])
        launch(
            sparse_backward_queries,
            (programs,),
            *(q, self.k, self.v, lists.entries, lists.ends, out, lse, d_out, d_lse, dq, delta),
            *self.strides,
            *d_out.stride()[:3],
            *self.sizes,
            *(self.scale, self.problem.scale),
            **tile,
            **self.constants,
        )
        return dq, delta

    def backward_keys(self, lists: Lists, lse: Tensor, d_out: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """dk and dv."""
        tile = self._tile("backward_keys")
        dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (self.k, self.v))
        programs = self.key_blocks * -(-self.problem.grid.block // tile["KEYS"])
        launch(
            sparse_backward_keys,
            (programs,),
            *(self.q, self.k, self.v, lists.entries, lists.ends, lse, d_out, delta, dk, dv),
            *self.strides,
            *d_out.stride()[:3],
            *self.sizes,
            *(self.scale, self.problem.scale),
            **tile,
            **self.constants,
        )
        return dk, dv


@torch.no_grad()
def block_max(q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], problem: Problem) -> Float[Tensor, "B H nQ nS"]:
    """max of A_ij over the rows i and keys j of each block; 0 where a block holds no visible pair."""
    grid, heads = problem.grid, problem.B * problem.H
    q, k = channels_last(q), channels_last(k)
    K = q.shape[3]
    tile = _tile("row_maxima", q, K, grid.T, grid.block)
    highest = torch.empty(heads, grid.nS, grid.T, dtype=torch.float32, device=q.device)
    lse = torch.empty(heads, grid.T, dtype=torch.float32, device=q.device)
    launch(
        row_maxima,
        (heads * -(-grid.T // tile["ROWS"]),),
        *(q, k, highest, lse, *q.stride()[:3], *k.stride()[:3]),
        *(problem.H, problem.G, grid.T, grid.S, grid.nS, problem.scale * LOG2_E),
        **tile,
        K=K,
        KP=padded(K),
        BLOCK=grid.block,
        CAUSAL=grid.causal,
        PRECISION=precision(q),
    )
    largest = torch.empty(problem.B, problem.H, grid.nQ, grid.nS, dtype=torch.float32, device=q.device)
    tile = {"BLOCKS": 32, "ROWS": min(64, triton.next_power_of_2(grid.tile))}
    launch(
        block_maxima,
        (heads * grid.nQ * -(-grid.nS // tile["BLOCKS"]),),
        *(highest, lse, largest, grid.T, grid.S, grid.nQ, grid.nS),
        **tile,
        BLOCK=grid.block,
        CAUSAL=grid.causal,
    )
    return largest
