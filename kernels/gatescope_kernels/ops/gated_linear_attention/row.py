"""The row of gated_linear_attention: its inputs, cases and budgets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from gatescope_kernels.ops._row import Budget, Case, Op, Production, Work
from gatescope_kernels.ops.gated_linear_attention.api import IMPLEMENTATIONS, gated_linear_attention
from gatescope_kernels.ops.gated_linear_attention.bench import contests

_SIZES = {"B": 1, "H": 1, "T": 63, "K": 16, "V": 16}


def _case(name: str, options: dict[str, Any] | None = None, error_scale: float = 1.0, **sizes: int) -> Case:
    return Case(name, _SIZES | sizes, options or {}, error_scale)


def _inputs(case: Case, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    B, H, T, K, V = (case.sizes[letter] for letter in "BHTKV")
    options = dict(case.options)
    layout = options.pop("layout", "contiguous")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def laid_out(x: Tensor) -> Tensor:
        x = x.to(dtype)
        if layout == "positions_first":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "strided_channels":
            return x.mT.contiguous().mT
        return x

    q, k, v = normal(B, H, T, K), normal(B, H, T, K), normal(B, H, T, V)
    rate = options.pop("beta", None)
    if rate is not None:
        k = normalize(k, dim=-1)
        beta = torch.sigmoid(normal(B, H, T)) if rate == "learned" else torch.full((B, H, T), rate)
    g = _log_decays(options.pop("decay", "learned"), normal(B, H, T, *([K] if options.pop("vector", True) else [])))
    inputs: dict[str, Any] = {name: laid_out(x) for name, x in (("q", q), ("k", k), ("v", v), ("g", g))}
    if rate is not None:
        inputs["beta"] = laid_out(beta)
    if options.pop("state", False):
        inputs["initial_state"] = laid_out(normal(B, H, K, V))
    return inputs | options


def _log_decays(kind: str | float, x: Tensor) -> Tensor:
    """Learned gates as in GLA, one number everywhere, or learned gates some of which are 0, -20 or -1e4."""
    if isinstance(kind, float):
        return torch.full_like(x, kind)
    soft = logsigmoid(x) / 16
    if kind == "learned":
        return soft
    if kind == "strong":
        return 16 * soft
    return torch.where(x > 1.0, -20.0, torch.where(x < -1.5, -1e4, torch.where(x.abs() < 0.1, 0.0, soft)))


def _call(impl: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    out, final = gated_linear_attention(**inputs, impl=impl)
    return {"out": out, "final_state": final}


def _production(case: Case, dtype: torch.dtype, chunk: int = 64) -> Production:
    """Forward and backward work of chunks of ``chunk`` tokens.

    A token of a head costs, forward, 4 K V for its state and chunk (K + V) for the pairs behind it; the delta rule
    reads the state once more and has the pairs of keys, the inverse and its product. The backward takes two products
    for each. A pair that halving parts counts once.
    """
    B, H, T, K, V = (case.sizes[letter] for letter in "BHTKV")
    delta, vector = "beta" in case.options, case.options.get("vector", True)
    flops = 4 * K * V + chunk * (K + V) + delta * (2 * K * V + chunk * (K + V) + chunk * chunk // 3)
    shared, own = 2 * K + V, V
    extra = (K if vector else 1) + delta
    element, tokens = torch.finfo(dtype).bits // 8, B * H * T
    states = 4 * B * H * K * V
    forward = Work(tokens * flops, element * tokens * (shared + own + extra) + states)
    backward = Work(2 * tokens * flops, element * tokens * (2 * (shared + extra) + own) + states)
    return Production(case, dtype, forward, backward)


_SCALAR, _STATE, _DELTA = {"vector": False}, {"state": True}, {"beta": "learned"}
_GATED_DELTA = _SCALAR | _DELTA | _STATE

ROW = Op(
    name="gated_linear_attention",
    inputs=_inputs,
    call=_call,
    cases=(
        _case("vector", H=2),
        _case("vector_state", _STATE, T=100),
        _case("scalar", _SCALAR),
        _case("scalar_state", _SCALAR | _STATE, T=100),
        _case("gated_delta", _SCALAR | _DELTA),
        _case("gated_delta_state", _GATED_DELTA, T=130),
        _case("vector_delta_state", _DELTA | _STATE, T=100),
        _case("one_token", _STATE, T=1),
        _case("one_token_delta", _GATED_DELTA, T=1),
        _case("two_tokens", _SCALAR | _STATE, T=2),
        _case("whole_chunks", _STATE, T=128),
        _case("whole_chunks_delta", _GATED_DELTA, T=128),
        _case("several_spans", _STATE, H=2, T=130, V=1000),
        _case("width_60", _STATE, K=60, V=60, T=100),
        _case("width_64_delta", _GATED_DELTA, K=64, V=64),
        _case("width_128", K=128, V=128, T=70),
        _case("width_256", _STATE, K=256, V=16, T=70),
        _case("width_264", _STATE, K=264, V=16, T=5),
        _case("wide_values", _STATE, K=7, V=24),
        _case("narrow_values_delta", _GATED_DELTA, K=24, V=5),
        _case("one_channel", _SCALAR | _STATE, K=1, V=1),
        _case("no_decay", _STATE | {"decay": 0.0}, T=100),
        _case("no_decay_scalar", _SCALAR | _STATE | {"decay": 0.0}),
        _case("no_decay_delta", _GATED_DELTA | {"decay": 0.0}),
        _case("decay_of_20", _STATE | {"decay": -20.0}),
        _case("decay_of_20_scalar", _SCALAR | _STATE | {"decay": -20.0}),
        _case("decay_of_20_delta", _GATED_DELTA | {"decay": -20.0}),
        _case("forgets_all", _STATE | {"decay": -1e4}),
        _case("forgets_all_delta", _GATED_DELTA | {"decay": -1e4}),
        _case("strong", _STATE | {"decay": "strong"}, T=100),
        _case("strong_delta", _GATED_DELTA | {"decay": "strong"}, T=100),
        _case("mixed", _STATE | {"decay": "mixed"}, T=130),
        _case("mixed_scalar", _SCALAR | _STATE | {"decay": "mixed"}, T=130),
        _case("mixed_delta", _GATED_DELTA | {"decay": "mixed"}, T=100),
        _case("mixed_vector_delta", _DELTA | _STATE | {"decay": "mixed"}, T=100),
        _case("writes_nothing", _GATED_DELTA | {"beta": 0.0}),
        _case("overwrites", _GATED_DELTA | {"beta": 1.0}, T=100),
        _case("scale_given", {"scale": 0.7}),
        _case("scale_zero", _SCALAR | {"scale": 0.0}),
        _case("positions_first", _STATE | {"layout": "positions_first"}, B=2, H=2, T=64),
        _case("positions_first_delta", _GATED_DELTA | {"layout": "positions_first"}, H=2),
        _case("strided_channels", _STATE | {"layout": "strided_channels"}, T=64),
    ),
    differentiable=("q", "k", "v", "g", "beta", "initial_state"),
    outputs=("out", "final_state"),
    low_precision=("out",),
    budget={torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3},
    gradient_budget={torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2},
    implementations=tuple(IMPLEMENTATIONS),
    contests=contests,
    unfused=frozenset({"width_264"}),
    productions=(
        _production(_case("vector", H=16, T=4096, K=128, V=128), torch.bfloat16),
        _production(_case("gated_delta", _SCALAR | _DELTA, H=16, T=4096, K=128, V=128), torch.bfloat16),
        _production(_case("vector_delta", _DELTA, H=16, T=4096, K=128, V=128), torch.bfloat16),
        _production(_case("vector", H=8, T=4096, K=256, V=256), torch.bfloat16),
        _production(_case("gated_delta", _SCALAR | _DELTA, H=8, T=4096, K=256, V=256), torch.bfloat16),
        _production(_case("vector", H=8, T=4096, K=64, V=64), torch.float32),
        _production(_case("gated_delta", _SCALAR | _DELTA, H=8, T=4096, K=64, V=64), torch.float32),
    ),
    budgets={
        "gla_sums": Budget(0, {"sm_80": 75, "sm_90": 75, "sm_100": 100, "gfx942": 100}),
        "gla_pairs": Budget(1, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 37}),
        "gla_states": Budget(1, {"sm_80": 25, "sm_90": 31, "sm_100": 25, "gfx942": 50}),
        "gla_outputs": Budget(2, {"sm_80": 18, "sm_90": 18, "sm_100": 18, "gfx942": 100}),
        "gla_pairs_backward": Budget(1, {"sm_80": 18, "sm_90": 18, "sm_100": 18, "gfx942": 75}),
        "gla_states_backward": Budget(3, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
        "gla_gradients": Budget(4, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
        "delta_inverse": Budget(6, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 50}),
        "delta_states": Budget(3, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
        "delta_states_backward": Budget(5, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 12}),
        "delta_pairs_backward": Budget(1, {"sm_80": 18, "sm_90": 18, "sm_100": 18, "gfx942": 62}),
        "delta_gradients": Budget(7, {"sm_80": 12, "sm_90": 12, "sm_100": 12, "gfx942": 25}),
    },
)
