"""The row of block_sparse_attention: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Budget, Case, Op, Production, Work
from gatescope_kernels.ops.block_sparse_attention.api import (
    IMPLEMENTATIONS,
    block_max_attention,
    block_sparse_attention_with_lse,
    top_blocks,
)
from gatescope_kernels.ops.block_sparse_attention.bench import contests

_SIZES = {"B": 1, "H": 2, "G": 1, "T": 100, "S": 100, "K": 16, "V": 16}


def _case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    if "T" in sizes:
        sizes.setdefault("S", sizes["T"])
    return Case(name, _SIZES | sizes, {"block": 32} | (options or {}), error_scale)


def _inputs(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    B, H, G, T, S, K, V = (case.sizes[letter] for letter in "BHGTSKV")
    options = dict(case.options)
    layout, kind = options.pop("layout", "contiguous"), options.pop("mask", "random")

    def normal(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        if layout == "positions_first":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "strided_channels":
            return x.mT.contiguous().mT
        return x

    inputs: dict[str, Any] = {"q": normal(B, H, T, K) * options.pop("logit_scale", 1.0)}
    inputs |= {"k": normal(B, G, S, K), "v": normal(B, G, S, V)}
    block, heads = options["block"], G if options.pop("per_group", False) else H
    scores = torch.rand(B, heads, -(-T // block), -(-S // block), generator=generator)
    if kind in {"top", "tenth"}:
        number = {"keep": 2} if kind == "top" else {"share": _TENTH}
        mask = top_blocks(scores, **number, causal=options.get("causal", True), lengths=(T, S), block=block)
    else:
        mask = scores < {"random": 0.5, "all": 1.0, "none": 0.0}[kind]
    return inputs | options | {"block_mask": mask}


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    inputs = dict(inputs)
    only, target, results = inputs.pop("only", None), inputs.pop("target", False), {}
    if only != "block_max":
        results["out"], results["lse"] = block_sparse_attention_with_lse(**inputs, impl=impl)
    if only != "attention":
        dense = {name: inputs[name] for name in inputs if name not in {"v", "block_mask"}}
        results["block_max"] = block_max_attention(**dense, impl=impl)
        if target:
            results["target"] = block_max_attention(**dense, normalise=True, impl=impl)
    return results


def _attention(case: Case, dtype: torch.dtype) -> Production:
    """Causal, K = V, a tenth of the blocks by ``top_blocks``: what a pair of tokens and what the tensors cost."""
    H, G, T, K = (case.sizes[letter] for letter in "HGTK")
    block = case.options["block"]
    rows = T // block
    blocks = sum(max(round(_TENTH * (row + 1)), min(row + 1, 2)) for row in range(rows))
    pairs = H * ((blocks - rows) * block**2 + rows * block * (block + 1) // 2)
    size, statistics = dtype.itemsize, 4 * H * T
    forward = Work(4 * pairs * K, size * T * K * (2 * H + 2 * G) + statistics)
    return Production(case, dtype, forward, Work(10 * pairs * K, size * T * K * (4 * H + 4 * G) + statistics))


def _block_max(case: Case, dtype: torch.dtype) -> Production:
    H, G, T, K = (case.sizes[letter] for letter in "HGTK")
    maxima = 4 * H * (T // case.options["block"]) ** 2
    return Production(case, dtype, Work(H * T * (T + 1) * K, dtype.itemsize * T * K * (H + G) + maxima))


#: A share of the blocks that becomes a tenth with the first and the own block, which are always on.
_TENTH = 0.098
_GROUP, _FULL, _TOP, _TARGET = {"per_group": True}, {"causal": False}, {"mask": "top"}, {"target": True}

_PRODUCTION = {"block": 64, "mask": "tenth", "only": "attention"} | _GROUP

ROW = Op(
    name="block_sparse_attention",
    inputs=_inputs,
    call=_call,
    cases=(
        _case("random", {"block": 16} | _TARGET, H=4, G=2, T=63),
        _case("random_per_group", {"block": 16} | _GROUP, B=2, H=4, G=2, T=40),
        _case("top", {"block": 16} | _TOP, T=70),
        _case("top_per_group", _TOP | _GROUP | _TARGET, T=130),
        _case("top_full", _TOP | _FULL, T=130),
        _case("whole_blocks", _TOP, T=128),
        _case("all_on", {"mask": "all"}),
        _case("all_on_full", {"mask": "all"} | _FULL, T=63),
        _case("all_off", {"mask": "none"}),
        _case("full", _FULL | _TARGET, T=63),
        _case("full_per_group_cross", _FULL | _GROUP, T=63, S=130),
        _case("one_token", T=1),
        _case("one_query", _GROUP, T=1, S=63),
        _case("few_queries", T=7, S=130),
        _case("cached_prefix", _TARGET, T=63, S=130),
        _case("cached_prefix_of_blocks", _TOP | _GROUP, T=64, S=128),
        _case("cached_prefix_top", _TOP, T=63, S=140),
        _case("more_queries_than_keys", _TARGET, T=100, S=63),
        _case("more_queries_than_keys_all_on", {"mask": "all"} | _GROUP, T=130, S=37),
        _case("block_of_64", {"block": 64} | _TOP, T=200, K=64, V=64),
        _case("block_longer_than_keys", {"block": 128}, T=63),
        _case("block_of_5", {"block": 5}, T=23),
        _case("block_of_1", {"block": 1}, T=7, S=9),
        _case("every_head_its_own_keys", H=3, G=3, K=60, V=60),
        _case("one_key_head", _GROUP, H=6, G=1, K=64, V=64),
        _case("wide_values", V=24),
        _case("narrow_values", _GROUP, K=60, V=7),
        _case("heads_of_264", _GROUP, T=17, K=264),
        _case("scale_given", {"scale": 0.7}),
        _case("scale_zero", {"scale": 0.0}),
        _case("large_logits", {"logit_scale": 30.0}, error_scale=8.0),
        _case("large_logits_per_group", {"logit_scale": 30.0} | _GROUP | _TOP, error_scale=8.0),
        _case("positions_first", {"layout": "positions_first"}),
        _case("positions_first_per_group", {"layout": "positions_first"} | _GROUP, H=4, G=2, T=96),
        _case("strided_channels", {"layout": "strided_channels"}, T=96),
    ),
    differentiable=("q", "k", "v"),
    outputs=("out", "lse", "block_max", "target"),
    low_precision=("out",),
    budget={torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    gradient_budget={torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
    unfused=frozenset({"heads_of_264"}),
    productions=(
        _attention(_case("a_tenth", _PRODUCTION, H=32, G=8, T=8192, K=128, V=128), torch.bfloat16),
        _block_max(_case("block_max", {"block": 64, "only": "block_max"}, H=32, G=8, T=4096, K=128), torch.bfloat16),
        _attention(_case("a_tenth", _PRODUCTION, H=12, G=12, T=4096, K=64, V=64), torch.float32),
        _block_max(_case("block_max", {"block": 64, "only": "block_max"}, H=12, G=12, T=2048, K=64), torch.float32),
    ),
    budgets={
        "sparse_forward": Budget(4, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
        "sparse_backward_queries": Budget(6, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
        "sparse_backward_keys": Budget(8, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 12}),
        "row_maxima": Budget(2, {"sm_80": 12, "sm_90": 25, "sm_100": 12, "gfx942": 50}),
        "block_maxima": Budget(0, {"sm_80": 100, "sm_90": 100, "sm_100": 100, "gfx942": 100}),
    },
)
