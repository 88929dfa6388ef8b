"""The row of polynorm: inputs, cases and budgets of PolyNorm and of PolyReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Budget, Case, Op, Production, Work
from gatescope_kernels.ops.polynorm.api import IMPLEMENTATIONS, polynorm, polyrelu
from gatescope_kernels.ops.polynorm.bench import contests

_SIZES = {"B": 2, "T": 63, "D": 60}


def _case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    return Case(name, _SIZES | sizes, options or {}, error_scale)


def _inputs(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    B, T, D = (case.sizes[letter] for letter in "BTD")
    options = dict(case.options)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = (normal(B, T, D) * options.pop("scale", 1.0)).to(dtype)
    if "outlier" in options:
        x[0, 0, D // 2] = options.pop("outlier")
    if options.pop("zero_row", False):
        x[0, T // 2] = 0.0
    x = _laid_out(x, options.pop("layout", "contiguous"))
    function = options.pop("function", "polynorm")
    weight = (normal(3 if function == "polynorm" else 4) * options.pop("weight_scale", 1.0)).to(dtype)
    inputs = {"x": x, "weight": weight, "function": function} | options
    return inputs | {"bias": normal(1).to(dtype)} if inputs.pop("bias", False) else inputs


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "positions_first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided_channels":
        return x.mT.contiguous().mT
    if layout == "half_of_a_projection":
        return torch.cat([x, x], -1).chunk(2, -1)[0]
    if layout == "one_row_expanded":
        return x[:, :1].expand_as(x)
    return x


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    arguments = dict(inputs)
    if arguments.pop("function") == "polyrelu":
        return {"polyrelu": polyrelu(**arguments, impl=impl)}
    return {"polynorm": polynorm(**arguments, impl=impl)}


_BIAS = {"bias": True}
_RELU = {"function": "polyrelu"}


def _production(case: Case, dtype: torch.dtype, forward: int, backward: int) -> Production:
    """Reads x and writes y; reads x and dy and writes dx. FLOPs an element stand in the README."""
    elements = case.sizes["B"] * case.sizes["T"] * case.sizes["D"]
    size = elements * dtype.itemsize
    return Production(case, dtype, Work(forward * elements, 2 * size), Work(backward * elements, 3 * size))


ROW = Op(
    name="polynorm",
    inputs=_inputs,
    call=_call,
    cases=(
        _case("plain"),
        _case("bias", _BIAS),
        _case("one_row", _BIAS, B=1, T=1),
        _case("one_channel", _BIAS, D=1),
        _case("width_16", _BIAS, T=100, D=16),
        _case("width_64", _BIAS, T=100, D=64),
        _case("width_1000", _BIAS, T=7, D=1000),
        _case("wider_than_a_program", _BIAS, B=1, T=1, D=16_400),
        _case("eps_large", {"eps": 1.0} | _BIAS),
        _case("eps_dwarfs_all", {"eps": 1e26} | _BIAS),
        _case("eps_small", {"eps": 1e-12} | _BIAS),
        _case("row_of_zeros", {"zero_row": True} | _BIAS),
        _case("tiny_values", {"scale": 1e-3} | _BIAS),
        _case("large_values", {"scale": 1e3} | _BIAS),
        _case("largest_half_values", {"scale": 1.3e4} | _BIAS),
        _case("massive_activation", {"outlier": 6e4} | _BIAS),
        _case("large_coefficients", {"weight_scale": 1e3} | _BIAS),
        _case("coefficients_zero", {"weight_scale": 0.0} | _BIAS),
        _case("positions_first", {"layout": "positions_first"} | _BIAS),
        _case("strided_channels", {"layout": "strided_channels"} | _BIAS),
        _case("half_of_a_projection", {"layout": "half_of_a_projection"} | _BIAS),
        _case("one_row_expanded", {"layout": "one_row_expanded"} | _BIAS),
        _case("polyrelu", _RELU),
        _case("polyrelu_one_element", _RELU, B=1, T=1, D=1),
        _case("polyrelu_width_64", _RELU, T=100, D=64),
        _case("polyrelu_row_of_zeros", {"zero_row": True} | _RELU),
        _case("polyrelu_large_values", {"scale": 10.0} | _RELU),
        _case("polyrelu_strided_channels", {"layout": "strided_channels"} | _RELU),
        _case("polyrelu_half_of_a_projection", {"layout": "half_of_a_projection"} | _RELU),
    ),
    differentiable=("x", "weight", "bias"),
    outputs=("polynorm", "polyrelu"),
    low_precision=("polynorm", "polyrelu"),
    budget={torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    gradient_budget={torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
    unfused=frozenset({"wider_than_a_program"}),
    productions=(
        _production(_case("polynorm", _BIAS, B=1, T=8192, D=8192), torch.bfloat16, 14, 19),
        _production(_case("polynorm", _BIAS, B=1, T=4096, D=4096), torch.float32, 14, 19),
        _production(_case("polyrelu", _RELU, B=1, T=4096, D=4096), torch.bfloat16, 7, 14),
    ),
    budgets={
        "polynorm_forward": Budget(0, {"sm_80": 50, "sm_90": 50, "sm_100": 50, "gfx942": 100}),
        "polynorm_backward": Budget(0, {"sm_80": 25, "sm_90": 25, "sm_100": 25, "gfx942": 100}),
        "polyrelu_forward": Budget(0, {"sm_80": 100, "sm_90": 100, "sm_100": 100, "gfx942": 100}),
        "polyrelu_backward": Budget(0, {"sm_80": 56, "sm_90": 56, "sm_100": 56, "gfx942": 100}),
    },
)
