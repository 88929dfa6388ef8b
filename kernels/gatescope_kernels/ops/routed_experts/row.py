"""The row of routed_experts: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Case, Op
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

    logits = normal(N, E) + options.get("skew", 0.0) * torch.arange(E)
    index = logits.topk(k).indices
    if options.get("load") == "twice":
        index = index[:, :1].expand(-1, k)
    elif options.get("load") == "one_expert":
        index = torch.full((N, k), E // 2)
    weight = logits.gather(1, index).softmax(-1) * options.get("weight_scale", 1.0)
    arrays = {"x": normal(N, D) * options.get("scale", 1.0), "expert_weight": weight}
    arrays |= {"w_gate": normal(E, D, F) / D**0.5, "w_up": normal(E, D, F) / D**0.5, "w_down": normal(E, F, D) / F**0.5}
    arrays = {name: array.to(dtype) for name, array in arrays.items()}
    if options.get("layout") == "transposed":
        arrays = {name: array.mT.contiguous().mT for name, array in arrays.items()}
    elif options.get("layout") == "interleaved":
        arrays = {name: array.repeat_interleave(2, -1)[..., ::2] for name, array in arrays.items()}
    return arrays | {"expert_index": index.to(options.get("index_dtype", torch.int64))}


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    return {"out": routed_experts(**inputs, impl=impl)}


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
        _case("more_experts_than_assignments", N=5, E=64),
        _case("wide_hidden", N=100, D=16, F=64),
        _case("narrow_hidden", N=100, D=64, F=16),
        _case("odd_widths", N=100, D=60, F=7, E=5, k=3),
        _case("uneven_load", {"skew": 0.5}, N=100),
        _case("very_uneven_load", {"skew": 3.0}, N=100),
        _case("everything_to_one_expert", {"load": "one_expert"}, k=1),
        _case("an_expert_named_twice", {"load": "twice"}, k=3),
        _case("weights_zero", {"weight_scale": 0.0}),
        _case("weights_negative", {"weight_scale": -3.0}),
        _case("large_inputs", {"scale": 30.0}, error_scale=2.0),
        _case("index_int32", {"index_dtype": torch.int32}),
        _case("index_uint8", {"index_dtype": torch.uint8}),
        _case("transposed", {"layout": "transposed"}, N=100, D=60),
        _case("interleaved", {"layout": "interleaved"}, F=64),
    ),
    differentiable=("x", "expert_weight", "w_gate", "w_up", "w_down"),
    outputs=("out",),
    low_precision=("out",),
    budget={torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3},
    gradient_budget={torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
)
