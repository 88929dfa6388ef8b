"""What polynorm and polyrelu refuse. Only shapes, dtypes, devices and options are read; tensor values never are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import FLOATS, accumulation_dtype, check_device, check_filled, check_tensor

#: Below this the inverse norm of a row of zeros, and its square in the backward pass, leave float32.
SMALLEST_EPS = 1e-24
#: Channels of a row that a Triton program still holds in registers.
WIDEST_FUSED = 16_384


def check_polynorm(x: Any, weight: Any, bias: Any, eps: Any) -> None:
    """Raises Refusal for whatever polynorm cannot take."""
    _check_input("polynorm", x)
    _check_coefficients("polynorm", "weight", weight, 3, "pass (w_0, w_1, w_2) of x^3, x^2, x; the order is 3", x)
    if bias is not None:
        _check_coefficients("polynorm", "bias", bias, 1, "pass one number as bias.reshape(1), or None", x)
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise Refusal("polynorm", "eps as a number", type(eps).__name__, "pass eps=1e-6")
    if not (math.isfinite(eps) and eps >= SMALLEST_EPS):
        raise Refusal("polynorm", f"a finite eps >= {SMALLEST_EPS:g}", str(eps), "pass eps=1e-6, the authors' value")


def check_polyrelu(x: Any, weight: Any) -> None:
    """Raises Refusal for whatever polyrelu cannot take."""
    _check_input("polyrelu", x)
    _check_coefficients("polyrelu", "weight", weight, 4, "pass (a_0, a_1, a_2, a_3), a_0 first; the order is 3", x)


def _check_input(operator: str, x: Any) -> None:
    check_tensor(operator, "x [... D]", x)
    if x.dim() == 0:
        raise Refusal(operator, "x [... D] of at least one dimension", "a scalar", "pass x.reshape(1)")
    if x.layout != torch.strided:
        raise Refusal(operator, "x as a dense tensor", str(x.layout), "convert with x.to_dense()")
    check_filled(operator, "x [... D]", x)
    if x.dtype not in FLOATS:
        raise Refusal(operator, "x in float16, bfloat16, float32 or float64", str(x.dtype), "convert with x.float()")


def _check_coefficients(operator: str, name: str, given: Any, length: int, next_step: str, x: Tensor) -> None:
    wanted = f"{name} [{length}]"
    check_tensor(operator, wanted, given)
    if tuple(given.shape) != (length,):
        raise Refusal(operator, wanted, str(tuple(given.shape)), next_step)
    allowed = tuple(dict.fromkeys((x.dtype, accumulation_dtype(x))))
    if given.dtype not in allowed:
        names = " or ".join(map(str, allowed))
        raise Refusal(operator, f"{name} in {names}", str(given.dtype), f"convert with {name}.to(x.dtype)")
    check_device(operator, name, given, "x", x)


def unfit_for_fused(x: Tensor) -> tuple[str, str] | None:
    """Wanted and got, where the fused PolyNorm cannot hold a row."""
    D = x.shape[-1]
    return None if D <= WIDEST_FUSED else (f"rows of at most {WIDEST_FUSED:,} channels", f"{D:,}")
