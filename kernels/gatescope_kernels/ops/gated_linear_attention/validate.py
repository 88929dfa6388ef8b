"""What gated linear attention refuses. Only shapes, dtypes, devices and options are read; tensor values never are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import (
    accumulation_dtype,
    check_device,
    check_dtype,
    check_filled,
    check_floating,
    check_tensor,
)

OPERATOR = "gated_linear_attention"
#: Channels of q and k that the fused kernels know.
WIDEST = 256


def resolve(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None,
    initial_state: Tensor | None,
    scale: float | None,
) -> tuple[list[Tensor | None], float]:
    """Check everything a caller passes. Raises Refusal.

    Returns q, k, v, g [B H T W], beta (or None) and the initial state (zeros where there is none), each in its own
    dtype, and the scale.
    """
    for name, x, shape in (("q", q, "[B H T K]"), ("k", k, "[B H T K]"), ("v", v, "[B H T V]")):
        _check_tokens(name, x, shape, q)
    (B, H, T, K), V = q.shape, v.shape[3]
    if k.shape != q.shape:
        next_step = "expand grouped keys with k.repeat_interleave(H // G, 1); shapes are [B heads positions channels]"
        raise Refusal(OPERATOR, f"k [B H T K] = {tuple(q.shape)}", str(tuple(k.shape)), next_step)
    if v.shape[:3] != q.shape[:3]:
        next_step = "pass one value a token and head; shapes are [B heads positions channels]"
        raise Refusal(OPERATOR, f"v [B H T V] = {(B, H, T, V)}", str(tuple(v.shape)), next_step)
    accumulation = accumulation_dtype(q)
    _check_extra("g", g, ((B, H, T), (B, H, T, K)), "[B H T] or [B H T K]", q, accumulation)
    if beta is not None:
        _check_extra("beta", beta, ((B, H, T),), "[B H T]", q, accumulation)
    if initial_state is not None:
        _check_extra("initial_state", initial_state, ((B, H, K, V),), "[B H K V]", q, accumulation)
    if scale is None:
        scale = 1.0 / math.sqrt(K)
    elif not isinstance(scale, int | float) or not math.isfinite(scale):
        raise Refusal(OPERATOR, "scale: a finite number", repr(scale), "pass scale=None for 1 / sqrt(K)")
    state = q.new_zeros(B, H, K, V, dtype=accumulation) if initial_state is None else initial_state
    g = g[..., None] if g.dim() == 3 else g
    return [q, k, v, g, beta, state], float(scale)


def unfit_for_fused(q: Tensor) -> tuple[str, str] | None:
    """What the fused kernels want and what they got, where they do not know the case: a program holds whole columns of
    a state."""
    K = q.shape[3]
    return (f"at most {WIDEST} channels of q and k", str(K)) if K > WIDEST else None


def _check_tensor(name: str, x: Tensor, shape: str) -> None:
    check_tensor(OPERATOR, f"{name} {shape}", x)
    check_floating(OPERATOR, name, x)


def _check_tokens(name: str, x: Tensor, shape: str, q: Tensor) -> None:
    _check_tensor(name, x, shape)
    if x.dim() != 4:
        next_step = "add the missing dimension, heads before positions"
        raise Refusal(OPERATOR, f"{name} {shape}", str(tuple(x.shape)), next_step)
    check_filled(OPERATOR, f"{name} {shape}", x)
    check_dtype(OPERATOR, name, x, "q", q)
    check_device(OPERATOR, name, x, "q", q)


_NEXT_STEPS = {
    "g": "pass log decays, one a head [B H T] or one a key channel [B H T K]",
    "beta": "pass one learning rate a token and head, or beta=None for no delta rule",
    "initial_state": "pass the final state of the tokens before, keys by values, or None for zeros",
}


def _check_extra(
    name: str, x: Tensor, shapes: tuple[tuple[int, ...], ...], letters: str, q: Tensor, accumulation: torch.dtype
) -> None:
    _check_tensor(name, x, letters)
    if tuple(x.shape) not in shapes:
        wanted = f"{name} {letters} = {' or '.join(map(str, shapes))}"
        raise Refusal(OPERATOR, wanted, str(tuple(x.shape)), _NEXT_STEPS[name])
    if x.dtype not in (q.dtype, accumulation):
        wanted = " or ".join(str(dtype) for dtype in dict.fromkeys((q.dtype, accumulation)))
        raise Refusal(OPERATOR, f"{name} in {wanted}", str(x.dtype), f"convert with {name}.to(q.dtype)")
    check_device(OPERATOR, name, x, "q", q)
