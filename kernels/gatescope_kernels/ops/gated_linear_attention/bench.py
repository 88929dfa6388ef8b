"""What gated linear attention is timed against: the recurrence, ours and flash-linear-attention's (on a GPU its chunked
kernels), and torch's softmax attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize, scaled_dot_product_attention

from gatescope_kernels.bench import Contest, normal
from gatescope_kernels.errors import Refusal
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


def _inputs(T: int, device: str, vector: bool, delta: bool, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    q, k, v, gate = normal(4, 1, 4, T, 64, device=device)
    inputs = {"q": q, "k": normalize(k, dim=-1), "v": v}
    inputs["g"] = logsigmoid(gate if vector else gate[..., 0]) / 16
    if delta:
        inputs["beta"] = torch.sigmoid(normal(1, 4, T, device=device))
    return {name: x.to(dtype).contiguous().requires_grad_() for name, x in inputs.items()}


def _step(run: Callable[..., Tensor], leaves: dict[str, Tensor], dout: Tensor) -> dict[str, Tensor]:
    out = run(**leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), dout)
    return {"out": out.detach()} | dict(zip((f"d{name}" for name in leaves), grads, strict=True))


def _recurrence(task: str, T: int, device: str, vector: bool, delta: bool) -> Contest:
    dtype, tolerance = (torch.bfloat16, 3e-2) if device == "cuda" else (torch.float32, 1e-4)
    leaves, dout = _inputs(T, device, vector, delta, dtype), normal(1, 4, T, 64, device=device).to(dtype)

    def step(impl: Impl) -> dict[str, Tensor]:
        return _step(lambda **inputs: gated_linear_attention(**inputs, impl=impl)[0], leaves, dout)

    baselines = {"token by token": lambda: step("reference")}
    if find_spec("fla") is None or find_spec("einops") is None:
        task += " (install fla-core and einops to see flash-linear-attention here)"
    elif device == "cuda":
        baselines["flash-linear-attention's chunks"] = lambda: _step(_fla_chunks(delta), leaves, dout)
    elif not delta:
        baselines["flash-linear-attention's recurrence"] = lambda: _step(_fla_recurrence(), leaves, dout)
    return Contest(
        op=_NAME,
        task=task,
        shape=f"B=1 H=4 T={T} K=64",
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        ours=lambda: step("auto"),
        baselines=baselines,
        tolerance=tolerance,
    )


def fla_naive(op: str, function: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A plain torch form of flash-linear-attention, from its file: importing the package takes seconds and a GPU."""
    package = find_spec("fla")
    if package is None or package.origin is None:
        raise Refusal("bench", "flash-linear-attention", "none installed", "pip install fla-core einops")
    spec = spec_from_file_location(f"fla_{op}_naive", Path(package.origin).parent / "ops" / op / "naive.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def _fla_recurrence() -> Callable[..., Tensor]:
    return _positions_first(fla_naive("gla", "naive_recurrent_gla"), g="gk")


def _fla_chunks(delta: bool) -> Callable[..., Tensor]:
    if delta:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return _positions_first(chunk_gated_delta_rule)
    from fla.ops.gla import chunk_gla

    return _positions_first(chunk_gla)


def _positions_first(run: Callable[..., Any], g: str = "g") -> Callable[..., Tensor]:
    """``run`` on our arguments: flash-linear-attention has positions before heads and calls vector decays gk or g."""

    def attend(**inputs: Tensor) -> Tensor:
        theirs = {g if name == "g" else name: x.transpose(1, 2) for name, x in inputs.items()}
        return run(**theirs)[0].transpose(1, 2)

    return attend


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
