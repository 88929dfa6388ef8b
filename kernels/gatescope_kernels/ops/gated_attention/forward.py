"""Output and statistics, strip by strip. The derivation is in the README."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_kernels.ops.gated_attention.problem import Problem
from gatescope_kernels.ops.gated_attention.strips import Workspace, capped_, strips

#: Strips take powers of 2, which cost half of powers of e on a CPU, of differences to the maximum: in the scale of
#: the logits the factor would round the largest.
LOG2E, LN2 = 1 / math.log(2), math.log(2)


def strip_forward(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    sink: Float[Tensor, " H"] | None,
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], dict[str, Tensor]]:
    """Output (learned sink included), LSE and whichever of entropy, max_logit and key_mass is asked for."""
    w = Workspace(q, k, v, problem)
    N, R, T, S, V = w.N, w.R, problem.T, problem.S, v.shape[-1]
    # With one sample tokens stay outermost, as the model around reads them; heads of several cannot be folded so.
    out = w.q.new_zeros(T, N, R, V).permute(1, 2, 0, 3) if problem.B == 1 else w.q.new_zeros(N, R, T, V)
    rows = {"base": w.q.new_full((N, R, T, 1), -torch.inf), "total": w.q.new_zeros(N, R, T, 1)}
    if "entropy" in problem.stats:
        rows["spread"] = w.q.new_zeros(N, R, T, 1)
    if "max_logit" in problem.stats:
        rows["max_logit"] = w.q.new_full((N, R, T, 1), -torch.inf)
    key_mass = w.q.new_zeros(N, R, S) if "key_mass" in problem.stats else None
    z, lowest = None, torch.finfo(problem.dtype).min
    if sink is not None:
        z = sink.to(problem.dtype).view(1, problem.G, R, 1, 1)
        z = z.expand(problem.B, -1, -1, T, -1).reshape(N, R, T, 1)
        torch.clamp(z, min=lowest, out=rows["base"])
    for strip in strips(problem):
        q_rows = w.rows(w.q, strip) * problem.scale
        s = w.scores(q_rows, w.keys("k", strip), strip, problem.softcap)
        base = s.amax(-1, keepdim=True)
        if "max_logit" in rows:
            w.put(rows["max_logit"], strip, base)
        if z is not None:
            base = torch.maximum(base, w.rows(z, strip))
        s.sub_(base.clamp_(min=lowest)).mul_(LOG2E)
        e = torch.exp2(s, out=w.buffer("exp", strip) if "entropy" in problem.stats else s)
        total = e.sum(-1, keepdim=True)
        w.put(rows["base"], strip, base)
        w.put(rows["total"], strip, total)
        if z is not None:
            total = total + torch.exp(w.rows(z, strip) - base)
        share = total.clamp(min=1.0).reciprocal_()  # the largest term is 1; nothing seen has none
        w.put(out, strip, torch.bmm(e, w.keys("v", strip)).mul_(share))
        if key_mass is not None:
            n, t = strip.n1 - strip.n0, strip.i1 - strip.i0
            received = torch.bmm(share.view(n * R, 1, t), e.view(n * R, t, -1)).view(n, R, -1)
            for columns, keys in strip.parts:
                key_mass[strip.n0 : strip.n1, :, keys] += received[..., columns]
        if "entropy" in problem.stats:
            w.hide(s, strip, 0.0)
            w.put(rows["spread"], strip, e.mul_(s).sum(-1, keepdim=True))
    found = {name: x.view(problem.B, problem.H, T) for name, x in _of_rows(rows, z).items()}
    if key_mass is not None:
        found["key_mass"] = key_mass.view(problem.B, problem.H, S)
    return out.to(q.dtype).view(problem.B, problem.H, T, V), found


def _of_rows(rows: dict[str, Tensor], z: Tensor | None) -> dict[str, Tensor]:
    """LSE, entropy and maximum logit from what strips left of each row: base m, sum of E = e^(S - m) and spread, the
    sum of E (S - m) / log 2."""
    base, of_keys = rows["base"], rows["total"]
    of_sink = None if z is None else torch.exp(z - base)
    total = of_keys if of_sink is None else of_keys + of_sink
    log_total = total.log()
    found = {"lse": base + log_total}
    if "max_logit" in rows:
        found["max_logit"] = rows["max_logit"]
    if "spread" in rows:
        share = total.clamp(min=1.0).reciprocal_()
        seen = torch.where(total == 0, 0.0, log_total)
        entropy = (of_keys * seen - rows["spread"] * LN2) * share
        if of_sink is not None:
            entropy += torch.special.entr(of_sink * share)
        found["entropy"] = entropy.clamp_(min=0.0)
    return found


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
    capped_(s, problem.softcap).masked_fill_(~visible[:, None], -torch.inf)
    return s.sub_(lse.masked_fill(lse == -torch.inf, 0.0)[..., None]).exp_()


def chosen_rows(k: Float[Tensor, "B G S K"], place: Int[Tensor, "B T"], problem: Problem) -> Float[Tensor, "B G 1 T K"]:
    """For each row the key at its place."""
    index = place[:, None, :, None].expand(-1, problem.G, -1, k.shape[-1])
    return k.gather(2, index).to(problem.dtype)[:, :, None]
