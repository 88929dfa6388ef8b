"""Output and statistics, strip by strip. The derivation is in the README."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_kernels.ops.gated_attention.problem import Problem
from gatescope_kernels.ops.gated_attention.strips import Workspace, capped_, strips


def strip_forward(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    sink: Float[Tensor, " H"] | None,
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], dict[str, Tensor]]:
    """Output (learned sink included), LSE and whichever of entropy, max_logit and key_mass is asked for."""
    w = Workspace(q, k, v, problem)
    N, R, T, S = w.N, w.R, problem.T, problem.S
    out = w.q.new_zeros(N, R, T, v.shape[-1])
    rows = {"lse": w.q.new_full((N, R, T, 1), -torch.inf)}
    if "entropy" in problem.stats:
        rows["entropy"] = w.q.new_zeros(N, R, T, 1)
    if "max_logit" in problem.stats:
        rows["max_logit"] = w.q.new_full((N, R, T, 1), -torch.inf)
    key_mass = w.q.new_zeros(N, R, S) if "key_mass" in problem.stats else None
    z = None
    if sink is not None:
        z = sink.to(problem.dtype).view(1, problem.G, R, 1, 1).expand(problem.B, -1, -1, T, -1).reshape(N, R, T, 1)
        rows["lse"] = z.clone()
    for strip in strips(problem):
        s = w.scores(w.rows(w.q, strip) * problem.scale, w.keys(w.k, strip), strip)
        top = s.amax(-1, keepdim=True)
        if "max_logit" in rows:
            w.put(rows["max_logit"], strip, top)
        base = top if z is None else torch.maximum(top, w.rows(z, strip))
        base = base.masked_fill(base == -torch.inf, 0.0)
        s.sub_(base)
        e = torch.exp(s, out=w.buffer("exp", strip) if "entropy" in rows else s)
        of_keys = e.sum(-1, keepdim=True)
        of_sink = 0.0 if z is None else torch.exp(w.rows(z, strip) - base)
        total = of_keys + of_sink
        share = torch.where(total == 0, 0.0, 1 / total)
        w.put(out, strip, torch.bmm(e, w.keys(w.v, strip)).mul_(share))
        w.put(rows["lse"], strip, base + total.log())
        if key_mass is not None:
            n, t = strip.n1 - strip.n0, strip.i1 - strip.i0
            received = torch.bmm(share.view(n * R, 1, t), e.view(n * R, t, -1)).view(n, R, -1)
            for columns, keys in strip.parts:
                key_mass[strip.n0 : strip.n1, :, keys] += received[..., columns]
        if "entropy" in rows:
            w.hide(s, strip, 0.0)
            log_total = torch.where(total == 0, 0.0, total.log())
            entropy = (of_keys * log_total - e.mul_(s).sum(-1, keepdim=True)) * share
            if z is not None:
                entropy += torch.special.entr(of_sink * share)
            w.put(rows["entropy"], strip, entropy.clamp_(min=0.0))
    found = {name: x.view(problem.B, problem.H, T) for name, x in rows.items()}
    if key_mass is not None:
        found["key_mass"] = key_mass.view(problem.B, problem.H, S)
    return out.to(q.dtype).view(problem.B, problem.H, T, -1), found


def chosen_mass(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], lse: Float[Tensor, "B H T"], problem: Problem
) -> Float[Tensor, "B H T N"]:
    """A_is = exp(scale * q_i.k_s - L_i) for the chosen keys s: O(T N) once the LSE is known."""
    B, H, G, T, N = problem.B, problem.H, problem.G, problem.T, len(problem.keys)
    places, inside = problem.chosen()
    q = q.to(problem.dtype).reshape(B, G, H // G, T, -1)
    if problem.start is None:
        k_chosen = k[:, :, list(problem.keys)].to(problem.dtype) * problem.scale
        s = (q.flatten(2, 3) @ k_chosen.mT).view(B, H, T, N)
    else:
        s = q.new_empty(B, H, T, N)
        for n, place in enumerate(places.unbind(-1)):
            s[..., n] = (q * (chosen_rows(k, place, problem) * problem.scale)).sum(-1).view(B, H, T)
    visible = inside & problem.row_bounds().see(places)
    if problem.key_mask is not None:
        of_sample = places.expand(B, -1, -1)
        visible = visible & problem.key_mask.gather(1, of_sample.flatten(1)).view_as(of_sample)
    capped_(s, problem).masked_fill_(~visible[:, None], -torch.inf)
    return s.sub_(lse.masked_fill(lse == -torch.inf, 0.0)[..., None]).exp_()


def chosen_rows(k: Float[Tensor, "B G S K"], place: Int[Tensor, "B T"], problem: Problem) -> Float[Tensor, "B G 1 T K"]:
    """For each row the key at its place."""
    index = place[:, None, :, None].expand(-1, problem.G, -1, k.shape[-1])
    return k.gather(2, index).to(problem.dtype)[:, :, None]
