"""The row of routed_experts: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Budget, Case, Op, Production, Work
from gatescope_kernels.ops.routed_experts.api import IMPLEMENTATIONS, routed_experts
from gatescope_kernels.ops.routed_experts.bench import contests

_SIZES = {"N": 63, "D": 16, "F": 16, "E": 8, "k": 2}


def _case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    return Case(name, _SIZES | sizes, options or {}, error_scale)


def _inputs(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    N, D, F, E, k = (case.sizes[letter] for letter in ("N", "D", "F", "E", "k"))
    options = case.options

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype)  # one by one: a production's weights are large in float64

    logits = normal(N, E) + options.get("skew", 0.0) * torch.arange(E)
    index = logits.topk(k).indices
    if options.get("load") == "twice":
        index = index[:, :1].expand(-1, k)
    elif options.get("load") == "one_expert":
        index = torch.full((N, k), E // 2)
    weight = logits.gather(1, index).softmax(-1) * options.get("weight_scale", 1.0)
    arrays = {"x": rounded(normal(N, D) * options.get("scale", 1.0)), "expert_weight": rounded(weight)}
    arrays["w_gate"] = rounded(normal(E, D, F) / D**0.5)
    arrays["w_up"] = rounded(normal(E, D, F) / D**0.5)
    arrays["w_down"] = rounded(normal(E, F, D) / F**0.5)
    if options.get("layout") == "transposed":
        arrays = {name: array.mT.contiguous().mT for name, array in arrays.items()}
    elif options.get("layout") == "interleaved":
        arrays = {name: array.repeat_interleave(2, -1)[..., ::2] for name, array in arrays.items()}
    return arrays | {"expert_index": index.to(options.get("index_dtype", torch.int64))}


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    return {"out": routed_experts(**inputs, impl=impl)}


def _production(name: str, dtype: torch.dtype, **sizes: int) -> Production:
    """Three products a row and twice that backward; inputs are read and results written once, rows of experts never."""
    N, D, F, E, k = (sizes[letter] for letter in ("N", "D", "F", "E", "k"))
    flops = 6 * N * k * D * F
    routing = N * k * (8 + dtype.itemsize)
    weights = 3 * E * D * F * dtype.itemsize
    tokens = N * D * dtype.itemsize
    return Production(
        Case(name, sizes),
        dtype,
        forward=Work(flops, 2 * tokens + weights + routing),
        backward=Work(2 * flops, 3 * tokens + 2 * weights + routing + N * k * dtype.itemsize),
    )


ROW = Op(
    name="routed_experts",
    inputs=_inputs,
    call=_call,
    cases=(
        _case("top_two"),
        _case("top_one", k=1),
        _case("all_experts", k=8),
        _case("one_expert", E=1, k=1),
        _case("one_token", N=1),
        _case("one_token_one_channel", N=1, D=1, F=1, E=3),
        _case("more_experts_than_assignments", N=5, E=33),
        _case("wide_hidden", N=100, D=16, F=64, E=4),
        _case("narrow_hidden", N=100, D=64, F=16, E=4),
        _case("odd_widths", N=100, D=60, F=7, E=5, k=3),
        _case("uneven_load", {"skew": 0.5}, N=100),
        _case("very_uneven_load", {"skew": 3.0}, N=100),
        _case("everything_to_one_expert", {"load": "one_expert"}, k=1),
        _case("an_expert_named_twice", {"load": "twice"}, k=3),
        _case("weights_zero", {"weight_scale": 0.0}, N=17, E=4),
        _case("weights_negative", {"weight_scale": -3.0}, N=17, E=4),
        _case("large_inputs", {"scale": 30.0}, error_scale=2.0, E=4),
        _case("index_int32", {"index_dtype": torch.int32}, N=17, E=4),
        _case("index_uint8", {"index_dtype": torch.uint8}, N=17, E=4),
        _case("transposed", {"layout": "transposed"}, N=63, D=60, E=4),
        _case("interleaved", {"layout": "interleaved"}, F=60, E=4),
    ),
    differentiable=("x", "expert_weight", "w_gate", "w_up", "w_down"),
    outputs=("out",),
    low_precision=("out",),
    # In 16 bits the fused kernels round hidden rows and rows of experts, blockwise the result alone.
    budget={torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3},
    gradient_budget={torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
    fused_budget={torch.float16: 1e-3, torch.bfloat16: 8e-3},
    productions=(
        _production("wide_experts", torch.bfloat16, N=8192, D=1024, F=1024, E=32, k=8),
        _production("narrow_experts", torch.bfloat16, N=2048, D=512, F=128, E=256, k=8),
        _production("single_precision", torch.float32, N=4096, D=512, F=512, E=16, k=2),
    ),
    budgets={
        "swiglu_kernel": Budget(2, {"sm_80": 25, "sm_90": 18, "sm_100": 12, "gfx942": 50}),
        "down_kernel": Budget(1, {"sm_80": 12, "sm_90": 25, "sm_100": 25, "gfx942": 50}),
        "combine_kernel": Budget(0, {"sm_80": 62, "sm_90": 62, "sm_100": 62, "gfx942": 100}),
        "hidden_gradient_kernel": Budget(1, {"sm_80": 25, "sm_90": 25, "sm_100": 25, "gfx942": 50}),
        "input_gradient_kernel": Budget(2, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 50}),
        "gate_up_weight_kernel": Budget(2, {"sm_80": 12, "sm_90": 18, "sm_100": 12, "gfx942": 50}),
        "down_weight_kernel": Budget(1, {"sm_80": 25, "sm_90": 25, "sm_100": 25, "gfx942": 50}),
    },
)
