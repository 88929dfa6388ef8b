"""The row of nm_linear: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Budget, Case, Op, Production, Work
from gatescope_kernels.ops.nm_linear.api import IMPLEMENTATIONS, nm_linear
from gatescope_kernels.ops.nm_linear.bench import contests

_SIZES = {"B": 2, "T": 7, "D": 64, "F": 16}


def _case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    return Case(name, _SIZES | sizes, options or {}, error_scale)


def _inputs(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    B, T, D, F = (case.sizes[letter] for letter in "BTDF")
    options = dict(case.options)
    layout, rank = options.pop("layout", "contiguous"), options.pop("rank", 3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = normal(B, T, D), normal(F, D), normal(F)
    x = {1: x[0, 0], 2: x[0], 3: x, 4: x[:, :, None]}[rank]
    levels = options.pop("levels", None)
    if levels is not None:  # few distinct magnitudes: ties in every group
        weight = (weight * levels).round() / max(levels, 1)
    x, weight, bias = x.to(dtype), (weight * options.pop("weight_scale", 1.0)).to(dtype), bias.to(dtype)
    if layout == "transposed":
        x, weight = x.mT.contiguous().mT, weight.mT.contiguous().mT
    if layout == "strided":
        x, weight = x.repeat_interleave(2, -1)[..., ::2], weight.repeat_interleave(3, -1)[:, ::3]
    inputs = {"x": x, "weight": weight}
    if options.pop("bias", True):
        inputs["bias"] = bias
    return inputs | options


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    return {"out": nm_linear(**inputs, impl=impl)}


def _production(dtype: torch.dtype, options: dict[str, Any] | None = None, **sizes: int) -> Production:
    """Least work: the three products, and every tensor read or written once (the mask is a byte a weight)."""
    name = "rows_{T}_inputs_{D}_outputs_{F}".format_map(sizes)
    T, D, F = sizes["T"], sizes["D"], sizes["F"]
    product, rows, weight = 2 * T * D * F, T * (D + F), D * F
    return Production(
        _case(name, options, B=1, **sizes),
        dtype,
        forward=Work(product, dtype.itemsize * (rows + weight + F) + weight),
        backward=Work(2 * product, dtype.itemsize * (2 * rows - T * F + 2 * weight + F) + weight),
    )


ROW = Op(
    name="nm_linear",
    inputs=_inputs,
    call=_call,
    cases=(
        _case("two_of_four"),
        _case("straight_through", {"backward": "ste"}),
        _case("pruned_stand_still", {"backward": "masked"}),
        _case("no_bias", {"bias": False}),
        _case("one_of_four", {"n": 1, "m": 4}),
        _case("three_of_four_masked", {"n": 3, "m": 4, "backward": "masked"}),
        _case("all_of_four", {"n": 4, "m": 4}),
        _case("one_of_one", {"n": 1, "m": 1, "backward": "masked"}),
        _case("one_of_two", {"n": 1, "m": 2, "backward": "ste"}),
        _case("four_of_eight", {"n": 4, "m": 8}),
        _case("three_of_five", {"n": 3, "m": 5}, D=60, F=60),
        _case("seven_of_seven_is_dense", {"n": 7, "m": 7}, D=63),
        _case("two_of_sixteen", {"n": 2, "m": 16}, D=16),
        _case("eight_of_thirty_two", {"n": 8, "m": 32, "backward": "masked"}),
        _case("whole_row", {"n": 10, "m": 60}, D=60),
        _case("one_token", T=1, B=1),
        _case("one_output", F=1),
        _case("one_group", D=4, F=3),
        _case("odd_lengths", T=63, D=100, F=60),
        _case("long", {"backward": "ste"}, T=100, D=128, F=64),
        _case("one_vector", {"rank": 1}),
        _case("one_matrix", {"rank": 2, "backward": "masked"}),
        _case("four_dimensions", {"rank": 4}),
        _case("ties", {"levels": 1}),
        _case("ties_of_eight", {"levels": 2, "n": 3, "m": 8}),
        _case("ties_of_thirty_two", {"levels": 1, "n": 5, "m": 32}),
        _case("all_zero", {"levels": 0}),
        _case("large_weights", {"weight_scale": 100.0}),
        _case("tiny_weights", {"weight_scale": 1e-6}),
        _case("no_decay", {"decay": 0.0}),
        _case("large_decay", {"decay": 3.0}),
        _case("transposed", {"layout": "transposed"}),
        _case("strided", {"layout": "strided", "backward": "masked"}),
        _case("strided_four_of_sixteen", {"layout": "strided", "n": 4, "m": 16}),
    ),
    differentiable=("x", "weight", "bias"),
    outputs=("out",),
    low_precision=("out",),
    budget={torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    gradient_budget={torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
    productions=(
        _production(torch.bfloat16, T=8192, D=4096, F=4096),
        _production(torch.bfloat16, {"n": 4, "m": 8, "backward": "masked"}, T=512, D=1024, F=1024),
        _production(torch.float32, T=8192, D=1024, F=1024),
    ),
    budgets={
        "mask_kernel": Budget(0, {"sm_80": 50, "sm_90": 50, "sm_100": 50, "gfx942": 50}),
        "product_kernel": Budget(1, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
        "weight_gradient_kernel": Budget(1, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
    },
)
