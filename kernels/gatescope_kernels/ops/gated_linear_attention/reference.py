"""Gated linear attention token by token. Autograd keeps a state a token: for tests and small inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    g: Float[Tensor, "B H T W"],
    beta: Float[Tensor, "B H T"] | None,
    state: Float[Tensor, "B H K V"],
    scale: float,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """Outputs and the final state; W = K decays each channel of k, W = 1 all of them alike.

    S' = Diag(exp g_t) S_{t-1}
    S_t = S' + k_t u_t^T        u_t = v_t, or with beta  u_t = beta_t (v_t - S'^T k_t)
    o_t = scale * S_t^T q_t
    """
    outputs = []
    betas = [None] * q.shape[2] if beta is None else beta.unbind(2)
    for q_t, k_t, v_t, g_t, beta_t in zip(*(x.unbind(2) for x in (q, k, v, g)), betas, strict=True):
        state = g_t.exp()[..., None] * state
        if beta_t is not None:
            v_t = beta_t[..., None] * (v_t - (k_t[..., None] * state).sum(-2))
        state = state + k_t[..., None] * v_t[..., None, :]
        outputs.append(scale * (q_t[..., None] * state).sum(-2))
    return torch.stack(outputs, 2), state
