"""What N:M masked linear is timed against: a plain dense layer of the same shape, and the same layer by topk."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatescope_kernels.bench import Contest
from gatescope_kernels.ops.nm_linear.api import nm_linear, nm_mask

_SHAPES = ((8, 1024, 1024, 2, 4), (512, 256, 1024, 2, 4), (512, 1024, 1024, 2, 4), (512, 1024, 1024, 4, 8))
_LONG = ((512, 1024, 1024, 8, 32), (2048, 1024, 4096, 2, 4))


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """A training step with SR-STE: few rows (where ranking is most of the work), many rows, wider groups."""
    for shape in _SHAPES if quick else _SHAPES + _LONG:
        yield _training_step(*shape, device=device)


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
