"""Gated attention, the equation spelled once. Materialises T x S: for tests and small inputs."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_kernels.ops.gated_attention.gate import gated
from gatescope_kernels.ops.gated_attention.problem import Problem


def visible_keys(problem: Problem) -> Bool[Tensor, "B 1 T S"]:
    """The rules of `Visibility`, documents and padding as a matrix. True where row i may read key j."""
    rule = problem.visibility
    p_T1 = torch.arange(problem.T, device=problem.device)[:, None] + problem.S - problem.T
    j_S = torch.arange(problem.S, device=problem.device)
    visible_BTS = torch.ones(problem.B, problem.T, problem.S, dtype=torch.bool, device=problem.device)
    first_BT1 = torch.zeros_like(visible_BTS[..., :1], dtype=torch.int32)
    if problem.start is not None:
        first_BT1 = problem.start[..., None]
        visible_BTS &= first_BT1 == first_BT1.mT
    if rule.causal:
        visible_BTS &= j_S <= p_T1
    if rule.window is not None:
        near_TS = (p_T1 - j_S < rule.window) & (j_S - p_T1 < rule.window)
        visible_BTS &= near_TS | (j_S - first_BT1 < rule.sink_tokens)
    if problem.key_mask is not None:
        visible_BTS &= problem.key_mask[:, None, :]
    return visible_BTS[:, None]


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    gate: Float[Tensor, "B H T W"] | None,
    combine: str,
    sink: Float[Tensor, " H"] | None,
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], dict[str, Tensor]]:
    """Gated attention in q's dtype, and the statistics asked for in the accumulation dtype.

        S_ij = scale * q_i.k_j over visible j        L_i = log(exp(sink_h) + sum_j exp(S_ij))
        A_ij = exp(S_ij - L_i)                       out_i = gate_i * sum_j A_ij v_j

    Autograd differentiates all of it. A row that sees no key and no sink has A = 0, L = -inf, entropy 0, mass 0.
    """
    dtype = q.dtype
    q, k, v = (x.to(problem.dtype) for x in (q, k, v))
    k, v = (x.repeat_interleave(problem.H // problem.G, dim=1) for x in (k, v))
    visible = visible_keys(problem)
    logits = problem.scale * q @ k.mT
    if problem.softcap is not None:
        logits = problem.softcap * torch.tanh(logits / problem.softcap)
    logits = logits.masked_fill(~visible, -torch.inf)
    outcomes = logits
    if sink is not None:
        sink_column = sink.to(problem.dtype).view(1, -1, 1, 1).expand(problem.B, -1, problem.T, 1)
        outcomes = torch.cat([logits, sink_column], dim=-1)
    # logsumexp and softmax of a row of -inf have NaN gradients: such rows are computed on zeros, then overwritten.
    empty = (outcomes == -torch.inf).all(-1, keepdim=True)
    outcomes = outcomes.masked_fill(empty, 0.0)
    lse = outcomes.logsumexp(-1)
    log_a = torch.log_softmax(outcomes, -1).masked_fill(empty, -torch.inf)
    a = log_a.exp()
    entropy = -(a * log_a.masked_fill(log_a == -torch.inf, 0.0)).sum(-1)
    a_keys = a[..., : problem.S]
    place_BTN, inside_BTN = problem.chosen()
    chosen_BHTN = place_BTN[:, None].expand(problem.B, problem.H, -1, -1)
    statistics = {
        "entropy": entropy,
        "max_logit": logits.max(-1).values,
        "mass": a_keys.gather(-1, chosen_BHTN).masked_fill(~inside_BTN[:, None], 0.0),
        "key_mass": a_keys.sum(-2),
    }
    found = {name: statistics[name] for name in problem.stats} | {"lse": lse.masked_fill(empty[..., 0], -torch.inf)}
    if sink is not None:
        found["sink_mass"] = a[..., -1]
    return gated(a_keys @ v, gate, combine, dtype), found
