"""What N:M masked linear is timed against: a plain dense layer of the same shape, the same layer by topk, and on a GPU
torch's product on sparse tensor cores, which reads a weight that was compressed beforehand."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatescope_kernels.bench import Contest, Contestant
from gatescope_kernels.ops.nm_linear.api import nm_linear, nm_mask

_SHAPES = ((8, 1024, 1024, 2, 4), (512, 256, 1024, 2, 4), (512, 1024, 1024, 2, 4), (512, 1024, 1024, 4, 8))
_HALF = ((512, 1024, 1024),)
_LONG = ((512, 1024, 1024, 8, 32), (2048, 1024, 4096, 2, 4))


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """A training step with SR-STE: few rows (where ranking is most of the work), many rows, wider groups. On a GPU also
    the forward in half precision, where 2:4 has hardware of its own."""
    for shape in _SHAPES if quick else _SHAPES + _LONG:
        yield _training_step(*shape, device=device)
    if device == "cuda":
        for B, D, F in _HALF if quick else (*_HALF, (8192, 4096, 4096)):
            yield _forward(B, D, F, device)


def _training_step(B: int, D: int, F: int, n: int, m: int, device: str) -> Contest:
    generator = torch.Generator().manual_seed(B + D + F + m)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(device)

    x, weight, bias = normal(B, D).requires_grad_(), normal(F, D, scale=D**-0.5).requires_grad_(), normal(F)
    upstream, decay = normal(B, F), 2e-4
    masked = (weight * nm_mask(weight, n, m)).detach().requires_grad_()

    def ours() -> dict[str, Tensor]:
        out = nm_linear(x, weight, bias, n=n, m=m, decay=decay)
        dx, dweight = torch.autograd.grad(out, (x, weight), upstream)
        return {"out": out.detach(), "dx": dx, "dweight": dweight}

    def dense() -> dict[str, Tensor]:
        out = linear(x, masked, bias)
        dx, _ = torch.autograd.grad(out, (x, masked), upstream)
        return {"out": out.detach(), "dx": dx}

    def by_topk() -> dict[str, Tensor]:
        largest = weight.detach().abs().unflatten(1, (-1, m)).topk(n, -1).indices
        mask = torch.zeros(F, D // m, m, device=device).scatter_(-1, largest, 1.0).flatten(1)
        out = linear(x, weight + (weight * mask - weight).detach(), bias)
        dx, dweight = torch.autograd.grad(out, (x, weight), upstream)
        return {"out": out.detach(), "dx": dx, "dweight": dweight + decay * (1 - mask) * weight.detach()}

    return Contest(
        op="nm_linear",
        task=f"forward and backward, {n}:{m} SR-STE",
        shape=f"B={B} D={D} F={F}",
        dtype="float32",
        device=device,
        ours=ours,
        baselines={"torch dense linear, mask given": dense, "torch topk mask, autograd": by_topk},
    )


def _forward(B: int, D: int, F: int, device: str) -> Contest:
    generator = torch.Generator().manual_seed(B + D + F)
    x, weight = (torch.randn(rows, D, generator=generator).to(device, torch.float16) for rows in (B, F))
    weight *= D**-0.5
    masked = weight * nm_mask(weight, 2, 4)
    baselines: dict[str, Contestant] = {"torch dense linear, mask given": lambda: {"out": linear(x, masked)}}
    if device == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0):
        compressed = torch.sparse.to_sparse_semi_structured(masked)
        baselines["torch 2:4 linear, compressed before"] = lambda: {"out": linear(x, compressed)}
    return Contest(
        op="nm_linear",
        task="forward, 2:4: ours ranks and multiplies densely, only sparse tensor cores gain from 2:4",
        shape=f"B={B} D={D} F={F}",
        dtype="float16",
        device=device,
        ours=lambda: {"out": nm_linear(x, weight)},
        baselines=baselines,
        tolerance=5e-3,
    )
