"""The row of block_sparse_attention: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.ops._row import Case, Op
from gatescope_kernels.ops.block_sparse_attention.api import (
    IMPLEMENTATIONS,
    block_max_attention,
    block_sparse_attention_with_lse,
    top_blocks,
)
from gatescope_kernels.ops.block_sparse_attention.bench import contests

_SIZES = {"B": 2, "H": 4, "G": 2, "T": 100, "S": 100, "K": 16, "V": 16}


def _case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    if "T" in sizes:
        sizes.setdefault("S", sizes["T"])
    return Case(name, _SIZES | sizes, {"block": 16} | (options or {}), error_scale)


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
    if kind == "top":
        mask = top_blocks(scores, keep=2, causal=options.get("causal", True), lengths=(T, S), block=block)
    else:
        mask = scores < {"random": 0.5, "all": 1.0, "none": 0.0}[kind]
    return inputs | options | {"block_mask": mask}


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    out, lse = block_sparse_attention_with_lse(**inputs, impl=impl)
    dense = {name: inputs[name] for name in inputs if name not in {"v", "block_mask"}}
    largest = block_max_attention(**dense, impl=impl)
    target = block_max_attention(**dense, normalise=True, impl=impl)
    return {"out": out, "lse": lse, "block_max": largest, "target": target}


_GROUP, _FULL, _TOP = {"per_group": True}, {"causal": False}, {"mask": "top"}

ROW = Op(
    name="block_sparse_attention",
    inputs=_inputs,
    call=_call,
    cases=(
        _case("random"),
        _case("random_per_group", _GROUP),
        _case("top", _TOP),
        _case("top_per_group", _TOP | _GROUP, T=130),
        _case("top_full", _TOP | _FULL, T=130),
        _case("whole_blocks", _TOP, T=128),
        _case("all_on", {"mask": "all"}),
        _case("all_on_full", {"mask": "all"} | _FULL, T=63),
        _case("all_off", {"mask": "none"}),
        _case("full", _FULL, T=63),
        _case("full_per_group_cross", _FULL | _GROUP, T=63, S=130),
        _case("one_token", T=1),
        _case("one_query", _GROUP, T=1, S=63),
        _case("few_queries", T=7, S=130),
        _case("cached_prefix", T=63, S=130),
        _case("cached_prefix_of_blocks", _TOP | _GROUP, T=64, S=128),
        _case("cached_prefix_top", _TOP, T=63, S=140),
        _case("more_queries_than_keys", T=100, S=63),
        _case("more_queries_than_keys_all_on", {"mask": "all"} | _GROUP, T=130, S=37),
        _case("block_of_64", {"block": 64} | _TOP, T=200, K=64, V=64, H=2, G=1),
        _case("block_longer_than_keys", {"block": 128}, T=63),
        _case("block_of_5", {"block": 5}, T=63),
        _case("block_of_1", {"block": 1}, B=1, T=20, S=23),
        _case("every_head_its_own_keys", H=3, G=3, K=60, V=60),
        _case("one_key_head", _GROUP, H=6, G=1, K=64, V=64),
        _case("wide_values", V=24),
        _case("narrow_values", _GROUP, K=60, V=7),
        _case("scale_given", {"scale": 0.7}),
        _case("scale_zero", {"scale": 0.0}),
        _case("large_logits", {"logit_scale": 30.0}, error_scale=8.0),
        _case("large_logits_per_group", {"logit_scale": 30.0} | _GROUP | _TOP, error_scale=8.0),
        _case("positions_first", {"layout": "positions_first"}),
        _case("positions_first_per_group", {"layout": "positions_first"} | _GROUP, T=96),
        _case("strided_channels", {"layout": "strided_channels"}, T=96),
    ),
    differentiable=("q", "k", "v"),
    outputs=("out", "lse", "block_max", "target"),
    low_precision=("out",),
    budget={torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    gradient_budget={torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
)
