"""What routed experts are timed against: one dense FFN of the same active work, torch's grouped product, Mixtral and,
on a GPU, scattermoe. A peer that is not installed is named as absent."""

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

#: N, D, F, E, k
_CPU = ((4096, 256, 128, 128, 2), (4096, 256, 512, 32, 2), (4096, 256, 64, 8, 2))
_GPU = ((8192, 2048, 1024, 64, 8), (8192, 1024, 1024, 32, 8), (4096, 512, 128, 256, 8))
_QUICK = 256


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """Many narrow experts, few wide ones, a toy layer: forward, then forward and backward. bfloat16 on a GPU."""
    shapes = _GPU if device == "cuda" else _CPU
    for N, D, F, E, k in shapes[1:] if quick else shapes:
        for train in (False, True):
            yield _contest((_QUICK if quick else N, D, F, E, k), device, train)


def _contest(shape: tuple[int, int, int, int, int], device: str, train: bool) -> Contest:
    N, D, F, E, k = shape
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(N + E + F)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_(train)

    x, w_gate, w_up, w_down = normal(N, D), normal(E, D, F), normal(E, D, F), normal(E, F, D)
    dense = [normal(k * F, D), normal(k * F, D), normal(D, k * F)]
    with torch.no_grad():
        for w in (w_gate, w_up, w_down, *dense):
            w.mul_(0.8 / D**0.5)
    index, weight = route(torch.randn(N, E, generator=generator).to(device, dtype), k)
    weight.requires_grad_(train)
    upstream = torch.randn(N, D, generator=generator).to(device, dtype)

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
        rows, scale = x[order // k], weight.flatten()[order, None]
        hidden = silu(grouped_mm(rows, w_gate, offs=ends)) * grouped_mm(rows, w_up, offs=ends)
        return torch.zeros_like(x).index_add(0, order // k, grouped_mm(hidden, w_down, offs=ends) * scale)

    baselines: dict[str, Any] = {"dense FFN of equal active work": beside_dense}
    baselines["torch grouped_mm"] = lambda: run(grouped, [x, weight, w_gate, w_up, w_down])
    absent = []
    if find_spec("transformers"):
        mixtral = cache(lambda: _mixtral_experts(w_gate, w_up, w_down, k))
        baselines["transformers' eager Mixtral experts"] = lambda: run(
            lambda: mixtral()(x, index, weight), [x, weight, *mixtral().parameters()]
        )
    else:
        absent.append("transformers")
    if device == "cuda" and find_spec("scattermoe"):
        scattered = cache(lambda: _scattermoe(w_gate, w_up, w_down, k))
        baselines["scattermoe"] = lambda: run(
            lambda: scattered()(x, weight, index), [x, weight, *scattered().parameters()]
        )
    elif device == "cuda":
        absent.append("scattermoe")
    task = "forward and backward" if train else "forward"
    return Contest(
        op="routed_experts",
        task=f"{task} (not installed: {', '.join(absent)})" if absent else task,
        shape=f"N={N} D={D} F={F} E={E} k={k}",
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        ours=ours,
        baselines=baselines,
        tolerance=1e-4 if dtype == torch.float32 else 3e-2,
    )


def _mixtral_experts(w_gate: Tensor, w_up: Tensor, w_down: Tensor, k: int) -> torch.nn.Module:
    """The experts of transformers' Mixtral block, its plain loop, with these weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    E, D, F = w_gate.shape
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=k)
    config._experts_implementation = "eager"
    experts = MixtralExperts(config).to(w_gate).requires_grad_(w_gate.requires_grad)
    with torch.no_grad():
        experts.gate_up_proj.copy_(torch.cat([w_gate, w_up], -1).mT)
        experts.down_proj.copy_(w_down.mT)
    return experts


def _scattermoe(w_gate: Tensor, w_up: Tensor, w_down: Tensor, k: int) -> torch.nn.Module:
    """scattermoe's gated MLP with these weights; its first half of columns is up, its second gate."""
    from scattermoe.mlp import GLUMLP

    E, D, F = w_gate.shape
    experts = GLUMLP(D, F, E, k).to(w_gate).requires_grad_(w_gate.requires_grad)
    with torch.no_grad():
        experts.experts.weight.copy_(torch.cat([w_up, w_gate], -1).mT)
        experts.output_experts.weight.copy_(w_down.mT)
    return experts
