"""The passes over score tiles: attention, statistics, gradients. Derivations are in the README.

Heads are folded into groups: q [B H T K] is read as [N R T K] with N = B * G key-value heads and R = H / G queries
each, so that one batched product serves all rows r, i that share a key.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_kernels.ops.gated_attention.problem import Problem
from gatescope_kernels.ops.gated_attention.tiles import Tile, row_blocks, tiles_of_rows

ROWS, KEYS = 128, 512

#: Stands in for log 0 where it is multiplied by a probability that is exactly 0 (exp of it is 0 in float64 too).
LOG_OF_NOTHING = -1e4


def flash_applies(q, v, problem: Problem) -> bool:
    """Whether torch's CPU flash kernel computes this case: equal widths, no window, no shifted diagonal."""
    rule = problem.visibility
    return (
        problem.device.type == "cpu"
        and q.shape[-1] == v.shape[-1]
        and (rule.window is None or (rule.causal and rule.window >= problem.S))
        and (not rule.causal or problem.T in (1, problem.S))
        and problem.key_mask is None
    )


def flash_forward(q, k, v, problem: Problem):
    q, k, v = _grouped(q, k, v, problem)
    causal = problem.visibility.causal and problem.T > 1
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=problem.scale)
    B, H, T = problem.B, problem.H, problem.T
    return out.reshape(B, H, T, -1), lse.reshape(B, H, T)


def _grouped(q, k, v, problem):
    """Heads that share keys share them by stride, so nothing is copied."""
    N, R = problem.B * problem.G, problem.H // problem.G
    if N == problem.B * problem.H:
        return q, k, v
    return (
        q.reshape(N, R, *q.shape[2:]),
        k.reshape(N, 1, *k.shape[2:]).expand(-1, R, -1, -1),
        v.reshape(N, 1, *v.shape[2:]).expand(-1, R, -1, -1),
    )


class _Folded:
    """q as [N R T K], k as [N S K] and v as [N S V] in the accumulation dtype, and the score tiles they make."""

    def __init__(self, q, k, v, problem: Problem):
        self.problem = problem
        self.N, self.R = problem.B * problem.G, problem.H // problem.G
        self.q = q.to(problem.dtype).reshape(self.N, self.R, *q.shape[2:])
        self.k = k.to(problem.dtype).reshape(self.N, *k.shape[2:])
        self.v = None if v is None else v.to(problem.dtype).reshape(self.N, *v.shape[2:])

    def rows(self, x, i0, i1):
        """Rows [i0, i1) of [N R T C] as [N R*rows C]."""
        return x[:, :, i0:i1].reshape(self.N, -1, x.shape[-1])

    def scores(self, q_rows: Tensor, tile: Tile) -> Tensor:
        """scale * q.k of one tile [N R*rows keys], -inf where hidden."""
        s = torch.bmm(q_rows, self.k[:, tile.j0 : tile.j1].mT)
        s *= self.problem.scale
        if tile.hidden is not None:
            B = tile.hidden.shape[0]
            rows = tile.hidden.shape[1]
            view = s.view(self.problem.B, -1, tile.i1 - tile.i0, tile.j1 - tile.j0)
            view.masked_fill_(tile.hidden.view(B, 1, rows, -1), -torch.inf)
        return s


def tile_forward(q, k, v, problem: Problem):
    """Online softmax over tiles: output and LSE."""
    f = _Folded(q, k, v, problem)
    out = f.q.new_zeros(f.N, f.R, problem.T, v.shape[-1])
    lse = f.q.new_full((f.N, f.R, problem.T), -torch.inf)
    for i0, i1 in row_blocks(problem, max(1, ROWS // f.R)):
        q_rows = f.rows(f.q, i0, i1)
        top = q_rows.new_full((*q_rows.shape[:2], 1), -torch.inf)
        total = torch.zeros_like(top)
        acc = q_rows.new_zeros(*q_rows.shape[:2], v.shape[-1])
        for tile in tiles_of_rows(problem, i0, i1, KEYS):
            s = f.scores(q_rows, tile)
            new_top = torch.maximum(top, s.amax(-1, keepdim=True))
            base = new_top.masked_fill(new_top == -torch.inf, 0.0)
            p = s.sub_(base).exp_()
            shrink = torch.exp(top - base)
            total.mul_(shrink).add_(p.sum(-1, keepdim=True))
            acc.mul_(shrink).baddbmm_(p, f.v[:, tile.j0 : tile.j1])
            top = new_top
        seen = total > 0
        acc /= torch.where(seen | total.isnan(), total, 1.0)
        out[:, :, i0:i1] = acc.view(f.N, f.R, i1 - i0, -1)
        lse[:, :, i0:i1] = (top + total.log()).view(f.N, f.R, -1)
    B, H, T = problem.B, problem.H, problem.T
    return out.to(q.dtype).view(B, H, T, -1), lse.view(B, H, T)


def _safe(lse: Tensor) -> Tensor:
    """LSE with 0 in place of -inf: exp(-inf - 0) is then 0 on rows that see nothing."""
    return lse.masked_fill(lse == -torch.inf, 0.0)


def tile_statistics(q, k, lse, sink_mass, problem: Problem):
    """Entropy, maximum logit and key mass in one walk over tiles, given the LSE. What was not asked for is None."""
    wants = problem.stats & {"entropy", "max_logit", "key_mass"}
    if not wants:
        return None, None, None, None
    f = _Folded(q, k, None, problem)
    B, H, T, S = problem.B, problem.H, problem.T, problem.S
    safe = _safe(lse).view(f.N, f.R, T, 1)
    entropy = torch.zeros_like(safe) if "entropy" in wants else None
    key_mass = f.q.new_zeros(f.N, f.R, S) if "key_mass" in wants else None
    top = f.q.new_full((f.N, f.R, T), -torch.inf) if "max_logit" in wants else None
    argmax = torch.zeros(f.N, f.R, T, dtype=torch.long, device=q.device) if "max_logit" in wants else None
    for i0, i1 in row_blocks(problem, max(1, ROWS // f.R)):
        q_rows, lse_rows = f.rows(f.q, i0, i1), f.rows(safe, i0, i1)
        for tile in tiles_of_rows(problem, i0, i1, KEYS):
            s = f.scores(q_rows, tile)
            shape = (f.N, f.R, i1 - i0, -1)
            if top is not None:
                value, index = s.view(shape).max(-1)
                better = (value > top[:, :, i0:i1]) | value.isnan()
                top[:, :, i0:i1] = torch.where(better, value, top[:, :, i0:i1])
                argmax[:, :, i0:i1] = torch.where(better, index + tile.j0, argmax[:, :, i0:i1])
            log_p = s.sub_(lse_rows)
            p = log_p.exp()
            if key_mass is not None:
                key_mass[:, :, tile.j0 : tile.j1] += p.view(shape).sum(2)
            if entropy is not None:
                if tile.hidden is not None:
                    log_p.clamp_(min=LOG_OF_NOTHING)
                entropy[:, :, i0:i1] -= p.mul_(log_p).sum(-1).view(*shape[:3], 1)
    if entropy is not None:
        entropy = entropy.view(B, H, T)
        if sink_mass is not None:
            entropy -= torch.xlogy(sink_mass, sink_mass)
        entropy = entropy.clamp_(min=0.0)
    top = None if top is None else top.view(B, H, T)
    argmax = None if argmax is None else argmax.view(B, H, T)
    return entropy, top, argmax, None if key_mass is None else key_mass.view(B, H, S)


def chosen_mass(q, k, lse, problem: Problem) -> Float[Tensor, "B H T N"]:
    """A_is = exp(S_is - L_i) for the chosen keys: O(T N)."""
    f = _Folded(q, k, None, problem)
    N = len(problem.keys)
    chosen = torch.tensor(problem.keys, device=q.device, dtype=torch.long)
    s = (f.q.flatten(1, 2) @ f.k[:, chosen].mT).mul_(problem.scale).view(problem.B, problem.H, problem.T, N)
    s.masked_fill_(~_sees(problem, chosen)[:, None], -torch.inf)
    return s.sub_(_safe(lse)[..., None]).exp_()


def _sees(problem: Problem, chosen: Int[Tensor, " N"]):
    low, high, kept = (x[:, None] for x in problem.bounds())
    sees = ((chosen >= low) & (chosen < high)) | (chosen < kept)
    if problem.key_mask is None:
        return sees[None]
    return sees[None] & problem.key_mask[:, None, chosen]


def backward(grads, q, k, v, sink, out, lse, entropy, argmax, mass, sink_mass, problem: Problem):
    """Gradients of everything `blockwise.attend` returns, tile by tile.

    dS_ij = A_ij (dY_i.v_j + dc_j + a_i - b_i log A_ij), with a and b of each row gathered before the walk.
    """
    f = _Folded(q, k, v, problem)
    N, R, T, S = f.N, f.R, problem.T, problem.S
    acc = problem.dtype
    safe = _safe(lse)
    dout = torch.zeros_like(out, dtype=acc) if grads.out is None else grads.out.to(acc)
    mean_dA = (dout * out.to(acc)).sum(-1)
    if grads.mass is not None:
        mean_dA = mean_dA + (mass * grads.mass).sum(-1)
    if grads.sink_mass is not None:
        mean_dA = mean_dA + sink_mass * grads.sink_mass
    if grads.key_mass is not None:
        mean_dA = mean_dA + _row_mean(f, safe, grads.key_mass.to(acc))
    a, b = -mean_dA, None
    if grads.lse is not None:
        a = a + grads.lse.masked_fill(lse == -torch.inf, 0.0)
    if grads.entropy is not None:
        b = grads.entropy.view(N, R, T, 1)
        a = a - grads.entropy * entropy
    a_rows, lse_rows, dout_rows = a.view(N, R, T, 1), safe.view(N, R, T, 1), dout.reshape(N, R, T, -1)
    dc = None if grads.key_mass is None else grads.key_mass.to(acc).reshape(N, R, 1, S)

    dq = torch.zeros(N, R, T, f.q.shape[-1], dtype=acc, device=q.device)
    dk, dv = torch.zeros_like(f.k), torch.zeros_like(f.v)
    for i0, i1 in row_blocks(problem, max(1, ROWS // R)):
        q_i, l_i, a_i, do_i = (f.rows(x, i0, i1) for x in (f.q, lse_rows, a_rows, dout_rows))
        b_i = None if b is None else f.rows(b, i0, i1)
        dq_i = torch.zeros_like(q_i)
        for tile in tiles_of_rows(problem, i0, i1, KEYS):
            j = slice(tile.j0, tile.j1)
            s = f.scores(q_i, tile)
            log_p = s.sub_(l_i)
            p = log_p.exp()
            dv[:, j].baddbmm_(p.mT, do_i)
            ds = torch.baddbmm(a_i, do_i, f.v[:, j].mT)
            if dc is not None:
                ds.view(N, R, i1 - i0, -1).add_(dc[..., j])
            if b_i is not None:
                if tile.hidden is not None:
                    log_p.clamp_(min=LOG_OF_NOTHING)
                ds.sub_(log_p.mul_(b_i))
            ds.mul_(p)
            dq_i.baddbmm_(ds, f.k[:, j])
            dk[:, j].baddbmm_(ds.mT, q_i)
        dq[:, :, i0:i1] = dq_i.view(N, R, i1 - i0, -1)
    if grads.mass is not None:
        chosen = torch.tensor(problem.keys, device=q.device, dtype=torch.long)
        ds = (mass * grads.mass).view(N, R * T, -1)
        dq += (ds @ f.k[:, chosen]).view_as(dq)
        dk.index_add_(1, chosen, ds.mT @ f.q.view(N, R * T, -1))
    if grads.max_logit is not None:
        found = (lse > -torch.inf) if sink is None else (problem.count_visible() > 0)[:, None]
        ds = (grads.max_logit * found).reshape(N, R * T, 1)
        at = argmax.view(N, R * T, 1).expand(-1, -1, q.shape[-1])
        dq += (f.k.gather(1, at) * ds).view_as(dq)
        dk.scatter_add_(1, at, f.q.view(N, R * T, -1) * ds)
    dsink = None
    if sink is not None:
        row = a + (0 if grads.sink_mass is None else grads.sink_mass)
        if grads.entropy is not None:
            row = row - grads.entropy * sink_mass.log()
        dsink = (sink_mass * row).sum((0, 2)).to(sink.dtype)
    dq.mul_(problem.scale)
    dk.mul_(problem.scale)
    return dq.to(q.dtype).view(q.shape), dk.to(k.dtype).view(k.shape), dv.to(v.dtype).view(v.shape), dsink


def _row_mean(f: _Folded, safe, dc):
    """sum_j A_ij dc_j for every row, one walk over tiles."""
    problem = f.problem
    dc = dc.reshape(f.N, f.R, 1, problem.S)
    lse_rows = safe.view(f.N, f.R, problem.T, 1)
    mean = torch.zeros(f.N, f.R, problem.T, dtype=safe.dtype, device=safe.device)
    for i0, i1 in row_blocks(problem, max(1, ROWS // f.R)):
        q_i, l_i = f.rows(f.q, i0, i1), f.rows(lse_rows, i0, i1)
        for tile in tiles_of_rows(problem, i0, i1, KEYS):
            p = f.scores(q_i, tile).sub_(l_i).exp_().view(f.N, f.R, i1 - i0, -1)
            mean[:, :, i0:i1] += p.mul_(dc[..., tile.j0 : tile.j1]).sum(-1)
    return mean.view(problem.B, problem.H, problem.T)
