"""What gated linear attention is timed against: the recurrence itself, torch's softmax attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize, scaled_dot_product_attention

from gatescope_kernels.bench import Contest, normal
from gatescope_kernels.ops.gated_linear_attention.api import Impl, gated_linear_attention

_NAME, _DTYPE = "gated_linear_attention", "float32"
Step = Callable[..., dict[str, Tensor]]


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """A training step against the recurrence, the same against softmax attention at growing length."""
    T = 256 if quick else 2048
    yield _recurrence("vector decay, forward and backward", T, device, vector=True, delta=False)
    yield _recurrence("gated delta rule, forward and backward", T, device, vector=False, delta=True)
    for length in (256,) if quick else (512, 1024, 2048, 4096, 8192):
        yield _against_softmax(length, device)


def _inputs(T: int, device: str, vector: bool, delta: bool) -> dict[str, Tensor]:
    q, k, v, gate = normal(4, 1, 4, T, 64, device=device)
    inputs = {"q": q, "k": normalize(k, dim=-1), "v": v}
    inputs["g"] = logsigmoid(gate if vector else gate[..., 0]) / 16
    if delta:
        inputs["beta"] = torch.sigmoid(normal(1, 4, T, device=device))
    return {name: x.contiguous().requires_grad_() for name, x in inputs.items()}


def _step(run: Callable[..., Tensor], leaves: dict[str, Tensor], dout: Tensor) -> dict[str, Tensor]:
    out = run(**leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), dout)
    return {"out": out.detach()} | dict(zip((f"d{name}" for name in leaves), grads, strict=True))


def _recurrence(task: str, T: int, device: str, vector: bool, delta: bool) -> Contest:
    leaves, dout = _inputs(T, device, vector, delta), normal(1, 4, T, 64, device=device)

    def step(impl: Impl) -> dict[str, Tensor]:
        return _step(lambda **inputs: gated_linear_attention(**inputs, impl=impl)[0], leaves, dout)

    return Contest(
        op=_NAME,
        task=task,
        shape=f"B=1 H=4 T={T} K=64",
        dtype=_DTYPE,
        device=device,
        ours=lambda: step("blockwise"),
        baselines={"token by token": lambda: step("reference")},
    )


def _against_softmax(T: int, device: str) -> Contest:
    """The two compute different things by design; what is compared is the time, so only shapes are held equal."""
    leaves, dout = _inputs(T, device, vector=True, delta=False), normal(1, 4, T, 64, device=device)
    softmax_leaves = {name: leaves[name] for name in ("q", "k", "v")}

    def shapes(results: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"shape": torch.tensor(results["out"].shape)}

    def ours() -> dict[str, Tensor]:
        return shapes(_step(lambda **inputs: gated_linear_attention(**inputs)[0], leaves, dout))

    def sdpa() -> dict[str, Tensor]:
        return shapes(
            _step(lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True), softmax_leaves, dout)
        )

    return Contest(
        op=_NAME,
        task="vector decay against softmax attention (another function), forward and backward",
        shape=f"B=1 H=4 T={T} K=64",
        dtype=_DTYPE,
        device=device,
        ours=ours,
        baselines={"torch SDPA, causal": sdpa},
    )
