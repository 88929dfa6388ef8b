"""Routed experts: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float, Integer
from torch import Tensor

from gatescope_kernels.ops._common import choose
from gatescope_kernels.ops.routed_experts import blockwise, reference
from gatescope_kernels.ops.routed_experts.validate import OPERATOR, check

Impl = Literal["auto", "reference", "blockwise", "fused"]

__all__ = ["Impl", "routed_experts"]


def _fused(*args: Tensor) -> Tensor:
    from gatescope_kernels.ops.routed_experts import fused

    return fused.mix(*args)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "reference": reference.mix,
    "blockwise": blockwise.mix,
    "fused": _fused,
}


def routed_experts(
    x: Float[Tensor, "N D"],
    expert_index: Integer[Tensor, "N k"],
    expert_weight: Float[Tensor, "N k"],
    w_gate: Float[Tensor, "E D F"],
    w_up: Float[Tensor, "E D F"],
    w_down: Float[Tensor, "E F D"],
    *,
    impl: Impl = "auto",
) -> Float[Tensor, "N D"]:
    """Each token through the SwiGLU experts it names, summed with its weights.

        y_n = sum_j weight[n, j] * ((silu(x_n W_gate[e]) * (x_n W_up[e])) W_down[e])      e = expert_index[n, j]

    expert_index   experts in [0, E), any integer dtype; see ``route`` for a router
    expert_weight  used as it comes: nothing is renormalised here
    impl           "auto" is "fused" (Triton) on a GPU and "blockwise" elsewhere; "reference" copies the weights of an
                   expert for every token that names it and is for tests

    There is no capacity: no token is dropped, however uneven the load. An expert that no token names is not read, and
    its gradient is zero. A token that names an expert twice gets it twice, with the sum of the two weights. Sequences
    are flattened first: [B T D] -> [N D].

    fp16 and bf16 accumulate in fp32; the output keeps x.dtype. "fused" also rounds to x.dtype what lies between two
    products, as tensor cores read it, and the k rows of a token; "blockwise" keeps them in fp32. Differentiable once,
    in x, expert_weight and the three weights; deterministic, on a CPU and in "fused". Values are not scanned, except
    that the indices must lie in range: a NaN in x shows in its own token, a NaN in an expert in the tokens that name
    it, and never as a zero.

    Raises Refusal for shapes, dtypes, devices or indices that do not fit, for an unknown ``impl``, and for "fused" in
    float64, without a GPU (unless Triton interprets) or without Triton.

    Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral) for SwiGLU experts; Gale et al. 2023 (MegaBlocks) and
    Tan et al. 2024 (ScatterMoE) for experts without capacity.
    """
    check(x, expert_index, expert_weight, w_gate, w_up, w_down)
    run = choose(OPERATOR, impl, IMPLEMENTATIONS, x)
    return run(x, expert_index.long(), expert_weight, w_gate, w_up, w_down)
