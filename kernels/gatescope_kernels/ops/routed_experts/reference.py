"""Routed experts, the equation spelled once. Copies an expert's weights for every token: for tests and small inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu

from gatescope_kernels.ops._common import accumulation_dtype


def mix(
    x: Float[Tensor, "N D"],
    expert_index: Int[Tensor, "N k"],
    expert_weight: Float[Tensor, "N k"],
    w_gate: Float[Tensor, "E D F"],
    w_up: Float[Tensor, "E D F"],
    w_down: Float[Tensor, "E F D"],
) -> Float[Tensor, "N D"]:
    """The output of every token, summed over its named experts; autograd differentiates all of it.

    y_n = sum_j weight[n, j] * ((silu(x_n W_gate[e]) * (x_n W_up[e])) W_down[e])      e = expert_index[n, j]
    """
    dtype, accumulation = x.dtype, accumulation_dtype(x)
    x, expert_weight, w_gate, w_up, w_down = (
        tensor.to(accumulation) for tensor in (x, expert_weight, w_gate, w_up, w_down)
    )
    y_ND = torch.zeros_like(x)
    for e_N, weight_N in zip(expert_index.unbind(1), expert_weight.unbind(1), strict=True):
        gate_NF = torch.einsum("nd,ndf->nf", x, w_gate[e_N])
        up_NF = torch.einsum("nd,ndf->nf", x, w_up[e_N])
        y_ND = y_ND + weight_N[:, None] * torch.einsum("nf,nfd->nd", silu(gate_NF) * up_NF, w_down[e_N])
    return y_ND.to(dtype)
