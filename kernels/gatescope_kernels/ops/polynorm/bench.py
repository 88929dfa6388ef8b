"""What PolyNorm and PolyReLU are timed against: the expressions one would write, and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from gatescope_kernels.bench import Contest, Peer, normal, terms, working_dtype
from gatescope_kernels.ops.polynorm.api import polynorm, polyrelu

_NAME, _EPS = "polynorm", 1e-6


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """A large activation forward and forward+backward, a toy model's, and PolyReLU."""
    N, D = (512, 1024) if quick else (4096, 4096)
    yield _forward(N, D, device)
    yield _training_step(N, D, device)
    yield _forward(48, 256, device)
    yield _training_step(48, 256, device)
    yield _polyrelu_forward(N, D, device)
    yield _polyrelu_training_step(N, D, device)


def _inputs(N: int, D: int, coefficients: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    x, dtype = normal(N, D, device=device), working_dtype(device)
    weight = torch.full((coefficients,), 1 / 3, device=device, dtype=dtype)
    return x, weight, torch.zeros(1, device=device, dtype=dtype)


def _naive(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    def normalised(u: Tensor) -> Tensor:
        return u / torch.sqrt(u.pow(2).mean(-1, keepdim=True) + _EPS)

    return weight[0] * normalised(x**3) + weight[1] * normalised(x**2) + weight[2] * normalised(x) + bias


def _with_rms_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    square = x * x
    powers = (square * x, square, x)
    return sum(w * rms_norm(u, u.shape[-1:], eps=_EPS) for w, u in zip(weight, powers, strict=True)) + bias


def _naive_polyrelu(x: Tensor, weight: Tensor) -> Tensor:
    r = torch.relu(x)
    return weight[0] + weight[1] * r + weight[2] * r**2 + weight[3] * r**3


def _contest(
    task: str,
    x: Tensor,
    device: str,
    ours: Callable,
    baselines: dict[str, Callable],
    liger: Callable[[Callable], dict[str, Tensor]] | None = None,
) -> Contest:
    peers = {}
    if device == "cuda" and liger is not None:
        peers["Liger-Kernel"] = Peer("liger-kernel", "liger_kernel", lambda: liger(_liger()))
    return Contest(
        op=_NAME,
        task=task,
        shape="x".join(map(str, x.shape)),
        ours=ours,
        baselines=baselines,
        peers=peers,
        **terms(device),
    )


def _liger() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from liger_kernel.ops.poly_norm import LigerPolyNormFunction

    return lambda x, weight, bias: LigerPolyNormFunction.apply(x, weight, bias, _EPS, False)


def _forward(N: int, D: int, device: str) -> Contest:
    x, weight, bias = _inputs(N, D, 3, device)
    return _contest(
        "PolyNorm forward",
        x,
        device,
        lambda: {"out": polynorm(x, weight, bias), "x": x},
        {
            "the expression": lambda: {"out": _naive(x, weight, bias)},
            "torch rms_norm of each power": lambda: {"out": _with_rms_norm(x, weight, bias)},
            "a copy of the same bytes": lambda: {"x": x.clone()},
        },
        lambda their_polynorm: {"out": their_polynorm(x, weight, bias)},
    )


def _training_step(N: int, D: int, device: str) -> Contest:
    leaves = [x.requires_grad_() for x in _inputs(N, D, 3, device)]
    step = _step(leaves, ("dx", "dweight", "dbias"))
    return _contest(
        "PolyNorm forward and backward",
        leaves[0],
        device,
        lambda: step(polynorm(*leaves)),
        {
            "the expression": lambda: step(_naive(*leaves)),
            "torch rms_norm of each power": lambda: step(_with_rms_norm(*leaves)),
        },
        lambda their_polynorm: step(their_polynorm(*leaves)),
    )


def _polyrelu_forward(N: int, D: int, device: str) -> Contest:
    x, weight, _ = _inputs(N, D, 4, device)
    return _contest(
        "PolyReLU forward",
        x,
        device,
        lambda: {"out": polyrelu(x, weight), "x": x},
        {
            "the expression": lambda: {"out": _naive_polyrelu(x, weight)},
            "a copy of the same bytes": lambda: {"x": x.clone()},
        },
    )


def _polyrelu_training_step(N: int, D: int, device: str) -> Contest:
    x, weight, _ = _inputs(N, D, 4, device)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    step = _step(leaves, ("dx", "dweight"))
    return _contest(
        "PolyReLU forward and backward",
        x,
        device,
        lambda: step(polyrelu(*leaves)),
        {"the expression": lambda: step(_naive_polyrelu(*leaves))},
    )


def _step(leaves: list[Tensor], names: tuple[str, ...]) -> Callable[[Tensor], dict[str, Tensor]]:
    upstream = torch.randn(leaves[0].shape, generator=torch.Generator().manual_seed(1)).to(leaves[0])

    def step(out: Tensor) -> dict[str, Tensor]:
        return {"out": out.detach()} | dict(zip(names, torch.autograd.grad(out, leaves, upstream), strict=True))

    return step
