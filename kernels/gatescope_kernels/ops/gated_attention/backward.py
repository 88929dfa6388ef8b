"""Gradients of the output and of every statistic, strip by strip. The derivation is in the README."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope_kernels.ops.gated_attention.flash import Call, flash_backward
from gatescope_kernels.ops.gated_attention.forward import chosen_rows
from gatescope_kernels.ops.gated_attention.problem import Problem
from gatescope_kernels.ops.gated_attention.strips import Strip, Workspace, cap_slope, strips


class Upstream(NamedTuple):
    """Gradients that arrive, in the order of the forward's results; None where nothing downstream used one."""

    out: Tensor | None
    lse: Tensor | None
    entropy: Tensor | None
    max_logit: Tensor | None
    mass: Tensor | None
    key_mass: Tensor | None
    sink_mass: Tensor | None


class Saved(NamedTuple):
    """What the forward keeps: its inputs and O(T) results."""

    q: Tensor
    k: Tensor
    v: Tensor
    sink: Tensor | None
    out: Tensor
    lse: Tensor
    entropy: Tensor | None
    mass: Tensor | None


def output_backward(
    dout: Tensor, saved: Saved, calls: tuple[Call, ...], problem: Problem
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv, dsink by torch's kernel, where the output alone was used."""
    q, k, v, sink, out, lse, *_ = saved
    dsink = None
    if sink is not None:
        sink_mass = torch.exp(sink.to(problem.dtype)[:, None] - lse)
        received = torch.linalg.vecdot(dout.to(problem.dtype), out.to(problem.dtype))
        dsink = -(sink_mass * received).sum((0, 2)).to(sink.dtype)
    return *flash_backward(dout, q, k, v, out, lse, calls, problem), dsink


def strip_backward(up: Upstream, saved: Saved, problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv and dsink.

    dS_ij = A_ij (dA_ij + a_i - dH_i log A_ij) + dM_i [j = argmax_j S_ij]
    dA_ij = dY_i.v_j + dc_j + sum_s dm_is [j = s]        a_i = dL_i - dH_i H_i - sum_j A_ij dA_ij

    A soft-cap c multiplies dS_ij by 1 - (S_ij / c)^2 on its way to q and k.
    """
    w = Workspace(saved.q, saved.k, saved.v, problem)
    N, R, T = w.N, w.R, problem.T
    dout = w.fold(torch.zeros_like(saved.out) if up.out is None else up.out)
    a = -(dout * w.fold(saved.out)).sum(-1, keepdim=True)
    lse = w.fold(saved.lse[..., None])
    if up.lse is not None:
        a += w.fold(up.lse[..., None]).masked_fill(lse == -torch.inf, 0.0)
    lse = lse.masked_fill(lse == -torch.inf, 0.0)
    d_entropy = None if up.entropy is None else w.fold(up.entropy[..., None])
    if d_entropy is not None and saved.entropy is not None:
        a -= d_entropy * w.fold(saved.entropy[..., None])
    d_mass = None
    if up.mass is not None and saved.mass is not None:
        d_mass = w.fold(saved.mass * up.mass)
        a -= d_mass.sum(-1, keepdim=True)
    d_sink_mass = None if up.sink_mass is None else w.fold(up.sink_mass[..., None])
    log_sink_mass = None
    if saved.sink is not None:
        z = saved.sink.to(problem.dtype).view(1, problem.G, R, 1, 1).expand(problem.B, -1, -1, -1, -1)
        log_sink_mass = z.reshape(N, R, 1, 1) - lse
        if d_sink_mass is not None:
            a -= log_sink_mass.exp() * d_sink_mass
    d_max = None if up.max_logit is None else w.fold(up.max_logit[..., None])
    d_keys = None if up.key_mass is None else up.key_mass.to(problem.dtype).reshape(N, R, -1)

    cap = problem.softcap
    dq, dk, dv = torch.zeros_like(w.q), torch.zeros_like(w.k), torch.zeros_like(w.v)
    for strip in strips(problem):
        q_rows, k_strip, do_rows = w.rows(w.q, strip) * problem.scale, w.keys("k", strip), w.rows(dout, strip)
        s = w.scores(q_rows, k_strip, strip, cap)
        highest = None if d_max is None else s.max(-1, keepdim=True)
        slope = None if cap is None else cap_slope(s, cap, out=w.buffer("slope", strip))
        s.sub_(w.rows(lse, strip))
        p = torch.exp(s, out=w.buffer("p", strip))
        if d_entropy is not None:
            w.hide(s, strip, 0.0)
        _add_keys(dv, strip, p, do_rows)
        ds = torch.bmm(do_rows, w.keys("v", strip).mT, out=s if d_entropy is None else w.buffer("ds", strip))
        if d_keys is not None:
            _add_key_mass(ds, p, a, d_keys, strip, w)
        ds.add_(w.rows(a, strip))
        if d_entropy is not None:
            ds.sub_(s.mul_(w.rows(d_entropy, strip)))
        ds.mul_(p)
        if highest is not None and d_max is not None:
            seen = highest.values != -torch.inf
            ds.scatter_add_(-1, highest.indices, w.rows(d_max, strip).masked_fill(~seen, 0.0))
        if slope is not None:
            ds.mul_(slope)
        w.put(dq, strip, torch.bmm(ds, k_strip))
        _add_keys(dk, strip, ds, q_rows)
    if d_mass is not None and saved.mass is not None:
        if cap is not None:
            d_mass *= cap_slope(w.fold(saved.mass).log() + lse, cap)
        _add_chosen_mass(dq, dk, d_mass, saved.k, w)
    dq *= problem.scale
    dsink = None
    if saved.sink is not None and log_sink_mass is not None:
        dz = a if d_sink_mass is None else a + d_sink_mass
        if d_entropy is not None:
            dz = dz - d_entropy * log_sink_mass
        dsink = (log_sink_mass.exp() * dz).view(problem.B, problem.H, T).sum((0, 2)).to(saved.sink.dtype)
    dq, dk, dv = (x.to(of.dtype).view(of.shape) for x, of in ((dq, saved.q), (dk, saved.k), (dv, saved.v)))
    return dq, dk, dv, dsink


def _add_keys(
    into: Float[Tensor, "N S C"], strip: Strip, weight: Float[Tensor, "n rows width"], rows: Float[Tensor, "n rows C"]
) -> None:
    """into_j += sum_i weight_ij rows_i."""
    for columns, keys in strip.parts:
        into[strip.n0 : strip.n1, keys].baddbmm_(weight[..., columns].mT, rows)


def _add_chosen_mass(
    dq: Float[Tensor, "N R T K"], dk: Float[Tensor, "N S K"], ds: Float[Tensor, "N R T n"], k: Tensor, w: Workspace
) -> None:
    """dq_i += dS_is k_s, the scale left to the caller, and dk_s += scale * dS_is q_i."""
    problem = w.problem
    if problem.start is None:
        chosen = torch.tensor(problem.keys, device=problem.device, dtype=torch.long)
        rows = ds.flatten(1, 2)
        dq += (rows @ w.k[:, chosen]).view_as(dq)
        dk.index_add_(1, chosen, rows.mT @ w.q.reshape(w.N, -1, dk.shape[-1]), alpha=problem.scale)
        return
    places, _ = problem.chosen()
    for place, ds_place in zip(places.unbind(-1), ds.unbind(-1), strict=True):
        dq += ds_place[..., None] * chosen_rows(k, place, problem).view(w.N, 1, problem.T, -1)
        index = place.repeat_interleave(problem.G, 0)[..., None].expand(-1, -1, dk.shape[-1])
        dk.scatter_add_(1, index, (ds_place[..., None] * w.q).sum(1) * problem.scale)


def _add_key_mass(ds: Tensor, p: Tensor, a: Tensor, d_keys: Float[Tensor, "N R S"], strip: Strip, w: Workspace) -> None:
    """dA_ij += dc_j, and its row mean into a."""
    n, t = strip.n1 - strip.n0, strip.i1 - strip.i0
    dc = torch.cat([d_keys[strip.n0 : strip.n1, :, keys] for _, keys in strip.parts], -1)
    ds.view(n, w.R, t, -1).add_(dc[:, :, None])
    mean = torch.bmm(p.view(n * w.R, t, -1), dc.view(n * w.R, -1, 1))
    a[strip.n0 : strip.n1, :, strip.i0 : strip.i1] -= mean.view(n, w.R, t, 1)
