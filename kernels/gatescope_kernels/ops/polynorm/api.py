"""PolyNorm and PolyReLU: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from gatescope_kernels.ops._common import choose
from gatescope_kernels.ops.polynorm import blockwise, reference
from gatescope_kernels.ops.polynorm.validate import check_polynorm, check_polyrelu, unfit_for_fused

Impl = Literal["auto", "reference", "blockwise", "fused"]

__all__ = ["Impl", "polynorm", "polyrelu"]


def _fused_polynorm(*arguments: Any) -> Tensor:
    from gatescope_kernels.ops.polynorm import fused

    return fused.polynorm(*arguments)


def _fused_polyrelu(*arguments: Any) -> Tensor:
    from gatescope_kernels.ops.polynorm import fused

    return fused.polyrelu(*arguments)


#: Implementation -> (PolyNorm, PolyReLU).
IMPLEMENTATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "reference": (reference.polynorm, reference.polyrelu),
    "blockwise": (blockwise.polynorm, blockwise.polyrelu),
    "fused": (_fused_polynorm, _fused_polyrelu),
}


def polynorm(
    x: Float[Tensor, "*rows D"],
    weight: Float[Tensor, " 3"],
    bias: Float[Tensor, " 1"] | None = None,
    *,
    eps: float = 1e-6,
    impl: Impl = "auto",
) -> Float[Tensor, "*rows D"]:
    """A cubic whose powers are each normalised over the last axis.

        y = w_0 N(x^3) + w_1 N(x^2) + w_2 N(x) + b            N(u) = u / sqrt(mean(u^2) + eps)

    weight  w_0 of the cube, w_1 of the square, w_2 of x itself: highest power first, as in the authors' code
    bias    b, the same for every channel; None is 0
    impl    "auto" is "fused" (Triton) on a GPU, "blockwise" elsewhere; "reference" materialises powers, for tests

    The authors' code starts training at w = 1/3 and b = 0; a library that says it follows it (Liger-Kernel) starts at
    b = 1. Nothing is assumed here: pass what you train.

    fp16 and bf16 accumulate in fp32; the output keeps x.dtype. weight and bias may be in x.dtype or in fp32 (fp64 for
    fp64 x). Any finite x is exact to rounding: rows too large for x^6 are scaled first. A NaN shows in its whole row;
    an infinity is NaN where it stands. Differentiable once, in x, weight and bias.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, and for an unknown ``impl``.

    Source: Zhuo et al. 2024, Polynomial Composition Activations (PolyCom), PolyNorm of order 3.
    """
    check_polynorm(x, weight, bias, eps)
    return choose("polynorm", impl, IMPLEMENTATIONS, x, unfit_for_fused(x))[0](x, weight, bias, eps)


def polyrelu(
    x: Float[Tensor, "*rows D"],
    weight: Float[Tensor, " 4"],
    *,
    impl: Impl = "auto",
) -> Float[Tensor, "*rows D"]:
    """A cubic of the rectified input.

        y = a_0 + a_1 relu(x) + a_2 relu(x)^2 + a_3 relu(x)^3

    weight  a_0 to a_3: lowest power first, the other way round than in polynorm
    impl    "auto" is "fused" (Triton) on a GPU, "blockwise" elsewhere; "reference" materialises powers, for tests

    Negative x gives a_0. fp16 and bf16 accumulate in fp32; the output keeps x.dtype and overflows where y does. weight
    may be in x.dtype or in fp32 (fp64 for fp64 x). A NaN stays where it is. Differentiable once, in x and weight; the
    slope at x = 0 is 0.

    Raises Refusal for shapes, dtypes or devices that do not fit, and for an unknown ``impl``.

    Source: Zhuo et al. 2024, Polynomial Composition Activations (PolyCom), PolyReLU of order 3.
    """
    check_polyrelu(x, weight)
    return choose("polyrelu", impl, IMPLEMENTATIONS, x)[1](x, weight)
