"""Block-sparse attention in vectorised torch, on any device. Nothing here ever holds T x S elements.

Query blocks that read equally many key blocks are computed together (plan.py): their keys and values are gathered
next to each other, so a chunk is two batched matrix products and one softmax over whole rows.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops.block_sparse_attention.plan import Chunk, make_plan
from gatescope_kernels.ops.block_sparse_attention.problem import Problem, pad_rows


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
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, block_mask: Tensor, problem: Problem, with_lse: bool
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.problem = problem
        ctx.save_for_backward(q, k, v, block_mask)
        w = _Workspace(q, k, v, block_mask, problem)
        out = w.rows(w.V, 0.0)
        lse = w.rows(1, -torch.inf) if with_lse else None
        with torch.inference_mode():  # hundreds of small calls, each the faster for it
            for chunk in w.plan.chunks:
                s = w.scores(chunk)
                top = s.amax(-1) if with_lse else None
                a = w.softmax(s, chunk)
                if lse is not None and top is not None:
                    # exp(top - L) is the largest of the row's probabilities: no second pass of exponentials.
                    row_lse = top - a.amax(-1).log()
                    if chunk.empty is not None:
                        w.by_tile(row_lse[..., None]).masked_fill_(chunk.empty[:, None], -torch.inf)
                    lse.index_copy_(0, chunk.rows, row_lse)
                y = w.buffer("y", w.most_rows * out.shape[1], *a.shape[:2], w.V)
                torch.bmm(a, w.gather("kv", w.v, chunk), out=y)
                out.index_copy_(0, chunk.rows, y.flatten(1))
        out = w.unfold(out).to(q.dtype)
        return (out,) if lse is None else (out, w.unfold(lse)[..., 0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None = None) -> tuple[Tensor | None, ...]:
        q, k, v, block_mask = ctx.saved_tensors
        if d_out is None:
            d_out = torch.zeros_like(q[..., :1]).expand(*q.shape[:3], v.shape[3])
        w = _Workspace(q, k, v, block_mask, ctx.problem)
        d_y, d_l = w.fold(d_out), None if d_lse is None else w.fold(d_lse[..., None])
        dq = w.rows(w.K, 0.0)
        dk, dv = torch.zeros_like(w.k), torch.zeros_like(w.v)
        with torch.inference_mode():
            for chunk in w.plan.chunks:
                a = w.softmax(w.scores(chunk), chunk)
                q_rows, dy_rows = w.take("q", w.q, chunk), w.take("dy", d_y, chunk)
                k_keys = w.gather("kv", w.k, chunk)
                dv.index_add_(0, chunk.blocks, torch.bmm(a.mT, dy_rows).view(-1, dv.shape[1]))
                da = torch.bmm(dy_rows, w.gather("v", w.v, chunk).mT)
                ds = torch._softmax_backward_data(da, a, -1, a.dtype)
                if d_l is not None:
                    d_l_rows = w.take("dl", d_l, chunk)
                    if chunk.empty is not None:
                        w.by_tile(d_l_rows).masked_fill_(chunk.empty[:, None], 0.0)
                    ds.addcmul_(a, d_l_rows)
                dq.index_copy_(0, chunk.rows, torch.bmm(ds, k_keys).flatten(1))
                dk.index_add_(0, chunk.blocks, torch.bmm(ds.mT, q_rows).view(-1, dk.shape[1]))
        dq, dk = w.unfold(dq.mul_(ctx.problem.scale)), dk.mul_(ctx.problem.scale)
        grid = ctx.problem.grid
        dk, dv = (x.view(*k.shape[:2], grid.nS * grid.block, -1)[:, :, : grid.S] for x in (dk, dv))
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), None, None, None


class _Workspace:
    """q, k and v cut into blocks in the accumulation dtype, and buffers that every chunk reuses.

    q [B H T K] is read as [B * M * nQ, R * tile, K]: M masks, each for the R = H / M query heads stacked as rows.
    k and v are read as [B * G * nS, block * C], so that a key block is one contiguous copy.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, block_mask: Tensor, problem: Problem) -> None:
        self.problem = problem
        self.M, self.K, self.V = block_mask.shape[1], q.shape[3], v.shape[3]
        self.R = problem.H // self.M
        self.q = self.fold(q)
        grid = problem.grid
        self.k, self.v = (
            pad_rows(x.to(problem.dtype), grid.nS * grid.block).reshape(-1, grid.block * x.shape[3]) for x in (k, v)
        )
        self.plan = make_plan(block_mask, problem, max(self.K, self.V))
        #: Query blocks and pairs of blocks of the largest chunk.
        self.most_rows = max((chunk.rows.numel() for chunk in self.plan.chunks), default=0)
        self.most_pairs = max((chunk.blocks.numel() for chunk in self.plan.chunks), default=0)
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def rows(self, width: int, idle: float) -> Float[Tensor, "rows R_tile_width"]:
        """Uninitialised room for each query block; ``idle`` for those that read nothing, which no chunk visits."""
        x = self.q.new_empty(self.q.shape[0], self.q.shape[1] * width)
        return x.index_fill_(0, self.plan.idle, idle) if self.plan.idle.numel() else x

    def fold(self, x: Float[Tensor, "B H T C"]) -> Float[Tensor, "rows R_tile C"]:
        """Query blocks, the heads that share a mask stacked; a short last block is filled with zeros."""
        grid, B = self.problem.grid, self.problem.B
        x = pad_rows(x.to(self.problem.dtype), grid.nQ * grid.tile)
        x = x.reshape(B * self.M, self.R, grid.nQ, grid.tile, -1).transpose(1, 2)
        return x.reshape(B * self.M * grid.nQ, self.R * grid.tile, -1)

    def unfold(self, x: Float[Tensor, "rows R_tile_C"]) -> Float[Tensor, "B H T C"]:
        """The inverse of ``fold``."""
        grid, p = self.problem.grid, self.problem
        x = x.view(p.B * self.M, grid.nQ, self.R, grid.tile, -1).transpose(1, 2)
        return x.reshape(p.B, p.H, grid.nQ * grid.tile, -1)[:, :, : grid.T]

    def by_tile(self, x: Float[Tensor, "n R_tile C"]) -> Float[Tensor, "n R tile C"]:
        """A view with the stacked heads apart."""
        return x.view(x.shape[0], self.R, self.problem.grid.tile, -1)

    def buffer(self, name: str, most: int, *shape: int) -> Tensor:
        """Uninitialised room of ``most`` elements that outlives the chunk, as ``shape``.

        Chunks are many and shapes few, so views of it are kept.
        """
        if (name, shape) not in self._views:
            if name not in self._buffers:
                self._buffers[name] = torch.empty(most, dtype=self.problem.dtype, device=self.problem.device)
            self._views[name, shape] = self._buffers[name][: prod(shape)].view(shape)
        return self._views[name, shape]

    def take(self, name: str, x: Float[Tensor, "rows R_tile C"], chunk: Chunk) -> Float[Tensor, "n R_tile C"]:
        """The chunk's query blocks."""
        into = self.buffer(name, self.most_rows * x.shape[1] * x.shape[2], chunk.rows.numel(), *x.shape[1:])
        return torch.index_select(x, 0, chunk.rows, out=into)

    def gather(self, name: str, x: Float[Tensor, "blocks block_C"], chunk: Chunk) -> Float[Tensor, "n keys C"]:
        """The chunk's key (or value) blocks, side by side."""
        block = self.problem.grid.block
        most = self.most_pairs * block * max(self.K, self.V)
        torch.index_select(x, 0, chunk.blocks, out=self.buffer(name, most, chunk.blocks.numel(), x.shape[1]))
        return self.buffer(name, most, chunk.rows.numel(), chunk.count * block, x.shape[1] // block)

    def scores(self, chunk: Chunk) -> Float[Tensor, "n R_tile keys"]:
        """scale * q.k of the chunk, -inf where hidden."""
        q, k = self.take("q", self.q, chunk), self.gather("kv", self.k, chunk)
        most = self.most_pairs * q.shape[1] * self.problem.grid.block
        s = self.buffer("scores", most, *q.shape[:2], k.shape[1])
        torch.baddbmm(s, q, k.mT, beta=0.0, alpha=self.problem.scale, out=s)
        if chunk.limit is not None:
            tail = self.by_tile(s)[..., -chunk.limit.shape[-1] :]
            torch.minimum(tail, chunk.limit, out=tail)  # several times as fast as masked_fill_
        return s

    def softmax(self, s: Float[Tensor, "n R_tile keys"], chunk: Chunk) -> Float[Tensor, "n R_tile keys"]:
        """Probabilities of whole rows, in place; 0 on a row that reads nothing."""
        a = torch.softmax(s, -1, out=s)
        if chunk.empty is not None:
            self.by_tile(a).masked_fill_(chunk.empty[:, None], 0.0)
        return a
