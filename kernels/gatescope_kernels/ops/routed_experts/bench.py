"""What routed experts are timed against: one dense FFN of the same active work, torch's grouped product, Mixtral."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, linear, silu

from gatescope_kernels.bench import Contest
from gatescope_kernels.ops.routed_experts.api import routed_experts
from gatescope_kernels.ops.routed_experts.router import route

_D, _K = 256, 2
_SHAPES = ((128, 128), (32, 512), (8, 64))


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """Many narrow experts, few wide ones, a toy layer: forward, then forward and backward."""
    for E, F in _SHAPES[1:] if quick else _SHAPES:
        N = 256 if quick else 4096
        yield _contest(N, E, F, device, train=False)
        yield _contest(N, E, F, device, train=True)


def _contest(N: int, E: int, F: int, device: str, train: bool) -> Contest:
    generator = torch.Generator().manual_seed(N + E + F)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_(train)

    x, w_gate, w_up, w_down = normal(N, _D), normal(E, _D, F), normal(E, _D, F), normal(E, F, _D)
    dense = [normal(_K * F, _D), normal(_K * F, _D), normal(_D, _K * F)]
    with torch.no_grad():
        for w in (w_gate, w_up, w_down, *dense):
            w.mul_(0.05)
    index, weight = route(torch.randn(N, E, generator=generator).to(device), _K)
    weight.requires_grad_(train)
    upstream = torch.randn(N, _D, generator=generator).to(device)

    def run(forward: Callable[[], Tensor], leaves: list[Tensor], name: str = "out") -> dict[str, Tensor]:
        out = forward()
        if not train:
            return {name: out}
        grads = torch.autograd.grad(out, leaves, upstream)
        return {name: out.detach(), f"d_{name}_dx": grads[0]}

    def dense_ffn() -> Tensor:
        return linear(silu(linear(x, dense[0])) * linear(x, dense[1]), dense[2])

    def beside_dense() -> dict[str, Tensor]:
        # Other weights, so other numbers: what can agree is the shape.
        found = run(dense_ffn, [x, *dense], "dense")
        return {"tokens": torch.tensor(float(len(found["dense"])))}

    def ours() -> dict[str, Tensor]:
        found = run(lambda: routed_experts(x, index, weight, w_gate, w_up, w_down), [x, weight, w_gate, w_up, w_down])
        return found | {"tokens": torch.tensor(float(len(found["out"])))}

    def grouped() -> Tensor:
        order = index.flatten().argsort(stable=True)
        ends = index.flatten().bincount(minlength=E).cumsum(0).int()
        rows, scale = x[order // _K], weight.flatten()[order, None]
        hidden = silu(grouped_mm(rows, w_gate, offs=ends)) * grouped_mm(rows, w_up, offs=ends)
        return torch.zeros_like(x).index_add(0, order // _K, grouped_mm(hidden, w_down, offs=ends) * scale)

    baselines: dict[str, Any] = {"dense FFN of equal active work": beside_dense}
    baselines["torch grouped_mm"] = lambda: run(grouped, [x, weight, w_gate, w_up, w_down])
    task = "forward and backward" if train else "forward"
    if find_spec("transformers") is None:
        task += " (install transformers to see its Mixtral block here)"
    else:
        mixtral = cache(lambda: _mixtral_experts(w_gate, w_up, w_down))
        baselines["transformers' eager Mixtral experts"] = lambda: run(
            lambda: mixtral()(x, index, weight), [x, weight, *mixtral().parameters()]
        )
    return Contest(
        op="routed_experts",
        task=task,
        shape=f"N={N} D={_D} F={F} E={E} k={_K}",
        dtype="float32",
        device=device,
        ours=ours,
        baselines=baselines,
    )


def _mixtral_experts(w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> torch.nn.Module:
    """The experts of transformers' Mixtral block, its plain loop, with these weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    E, D, F = w_gate.shape
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=_K)
    config._experts_implementation = "eager"
    experts = MixtralExperts(config).to(w_gate.device).requires_grad_(w_gate.requires_grad)
    with torch.no_grad():
        experts.gate_up_proj.copy_(torch.cat([w_gate, w_up], -1).mT)
        experts.down_proj.copy_(w_down.mT)
    return experts
