"""What gated attention refuses: shapes, dtypes, devices, options. Of tensor values only document ids are read."""

from __future__ import annotations

import math
from typing import Any

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
from gatescope_kernels.ops.gated_attention.documents import extents
from gatescope_kernels.ops.gated_attention.problem import OPERATOR, Problem, Visibility

COMBINE = ("multiply", "add")

#: Statistics that can be asked for. ``lse`` and the number of visible keys always come.
STATISTICS = ("entropy", "max_logit", "mass", "key_mass")
_SEQUENCES = (tuple, list, set, frozenset)
#: Channels of q, k and v that the fused kernels know.
WIDEST_FUSED = 256


def unfit_for_fused(q: Tensor, v: Tensor, softcap: float | None) -> tuple[str, str] | None:
    """Wanted and got, where the fused kernels cannot hold a head or do not know its logits."""
    if softcap is not None:
        return "logits without a soft-cap", f"softcap={softcap}"
    widths = f"K = {q.shape[-1]}, V = {v.shape[-1]}"
    return None if max(q.shape[-1], v.shape[-1]) <= WIDEST_FUSED else (f"K and V of at most {WIDEST_FUSED}", widths)


def resolve(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    combine: str,
    sink: Tensor | float | None,
    visibility: Visibility,
    key_mask: Tensor | None,
    documents: Tensor | None,
    scale: float | None,
    softcap: float | None,
    stats: tuple[str, ...],
    keys: tuple[int, ...],
) -> tuple[Problem, Tensor | None]:
    """Check everything a caller passes; return the problem and the sink as a tensor [H]. Raises Refusal."""
    _check_qkv(q, k, v)
    (B, H, T, K), (_, G, S, V) = q.shape, v.shape
    if gate is not None:
        _check_gate(gate, q, V, combine)
    if not isinstance(visibility, Visibility):
        raise Refusal(OPERATOR, "visibility: Visibility", type(visibility).__name__, "pass Visibility(causal=...)")
    if key_mask is not None:
        _check_key_mask(key_mask, q, S)
    if scale is None:
        scale = 1.0 / math.sqrt(K)
    elif not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise Refusal(OPERATOR, "a finite scale", str(scale), "pass scale=None for 1 / sqrt(K)")
    if softcap is not None and not (isinstance(softcap, (int, float)) and math.isfinite(softcap) and softcap > 0):
        raise Refusal(OPERATOR, "a finite softcap > 0", str(softcap), "pass softcap=None for logits without one")
    _check_statistics(stats, keys, S)
    start, stop = (None, None) if documents is None else extents(documents, q, S)
    dtype, wanted = accumulation_dtype(q), frozenset(stats)
    sizes = B, H, G, T, S
    problem = Problem(*sizes, scale, visibility, key_mask, wanted, tuple(keys), dtype, q.device, start, stop, softcap)
    return problem, _sink_tensor(sink, q)


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x, shape in (("q", q, "[B H T K]"), ("k", k, "[B G S K]"), ("v", v, "[B G S V]")):
        check_tensor(OPERATOR, f"{name} {shape}", x)
        if x.dim() != 4:
            raise Refusal(
                OPERATOR, f"{name} {shape}", str(tuple(x.shape)), "add the missing dimension, heads before positions"
            )
        check_filled(OPERATOR, f"{name} {shape}", x)
        check_floating(OPERATOR, name, x)
        check_dtype(OPERATOR, name, x, "q", q)
        check_device(OPERATOR, name, x, "q", q)
    if k.shape[0] != q.shape[0] or v.shape[0] != q.shape[0]:
        batches = f"{q.shape[0]}, {k.shape[0]}, {v.shape[0]}"
        raise Refusal(OPERATOR, "one batch size B in q, k, v", batches, "expand the smaller ones")
    if k.shape[3] != q.shape[3]:
        raise Refusal(
            OPERATOR, f"k with q's width K = {q.shape[3]}", str(k.shape[3]), "project q and k to one head width"
        )
    if v.shape[1:3] != k.shape[1:3]:
        raise Refusal(
            OPERATOR,
            f"v [B G S V] with k's G, S = {tuple(k.shape[1:3])}",
            str(tuple(v.shape[1:3])),
            "pass k and v of the same keys; shapes are [B heads positions channels]",
        )
    if q.shape[1] % k.shape[1]:
        raise Refusal(
            OPERATOR,
            f"query heads H a multiple of key-value heads G = {k.shape[1]}",
            f"H = {q.shape[1]}",
            "shapes are [B heads positions channels]; use x.transpose(1, 2) if positions come first",
        )


def _check_gate(gate: Tensor, q: Tensor, V: int, combine: str) -> None:
    if combine not in COMBINE:
        raise Refusal(OPERATOR, f"combine in {COMBINE}", repr(combine), "use combine='multiply'")
    B, H, T, _ = q.shape
    check_tensor(OPERATOR, "gate [B H T W]", gate)
    if tuple(gate.shape) == (B, H, T):
        raise Refusal(
            OPERATOR,
            f"gate [B H T W] = {(B, H, T, V)} or {(B, H, T, 1)}",
            str(tuple(gate.shape)),
            "for one gate per head pass gate[..., None]",
        )
    if tuple(gate.shape[:3]) != (B, H, T) or gate.dim() != 4 or gate.shape[3] not in (1, V):
        raise Refusal(
            OPERATOR,
            f"gate [B H T W] = {(B, H, T, V)} or {(B, H, T, 1)}",
            str(tuple(gate.shape)),
            "lay scores out as [B H T W]; a gate shared by all heads is gate.expand(-1, H, -1, -1)",
        )
    check_dtype(OPERATOR, "gate", gate, "q", q)
    check_device(OPERATOR, "gate", gate, "q", q)


def _check_key_mask(key_mask: Tensor, q: Tensor, S: int) -> None:
    wanted = f"key_mask [B S] = {(q.shape[0], S)} of bool, True for keys that may be read"
    check_tensor(OPERATOR, "key_mask [B S]", key_mask)
    if key_mask.dtype != torch.bool:
        raise Refusal(OPERATOR, wanted, str(key_mask.dtype), "convert with key_mask.bool(); 1 means may be read")
    if tuple(key_mask.shape) != (q.shape[0], S):
        raise Refusal(OPERATOR, wanted, str(tuple(key_mask.shape)), "pass one flag a key; causality is `visibility`")
    check_device(OPERATOR, "key_mask", key_mask, "q", q)


def _check_statistics(stats: tuple[str, ...], keys: tuple[int, ...], S: int) -> None:
    unknown = [name for name in stats if name not in STATISTICS] if isinstance(stats, _SEQUENCES) else [stats]
    if unknown:
        next_step = f"ask for some of {', '.join(STATISTICS)}; lse and visible always come"
        raise Refusal(OPERATOR, "stats: a tuple of known names", repr(unknown[0]), next_step)
    if not isinstance(keys, (tuple, list)) or not all(isinstance(key, int) for key in keys):
        raise Refusal(OPERATOR, "keys: a tuple of positions", repr(keys), "pass keys=(0,) for the first key")
    outside = [key for key in keys if not 0 <= key < S] if "mass" in stats else []
    if outside:
        raise Refusal(OPERATOR, f"keys in [0, S) = [0, {S})", str(outside[0]), f"the last key is {S - 1}")


def _sink_tensor(sink: Any, q: Tensor) -> Tensor | None:
    """The sink as [H]; a number is the same logit for every head, without a gradient."""
    H = q.shape[1]
    if sink is None:
        return None
    if not isinstance(sink, Tensor):
        if not isinstance(sink, (int, float)) or not math.isfinite(sink):
            next_step = "pass sink=None for none, 0.0 for off-by-one, a tensor [H] for one a head"
            raise Refusal(OPERATOR, "a finite sink logit", str(sink), next_step)
        return torch.full((H,), float(sink), dtype=q.dtype, device=q.device)
    if tuple(sink.shape) != (H,):
        raise Refusal(
            OPERATOR, f"sink [H] = ({H},)", str(tuple(sink.shape)), "pass one logit a query head, or one Python number"
        )
    if not sink.dtype.is_floating_point:
        raise Refusal(OPERATOR, "sink in a floating dtype", str(sink.dtype), "convert with sink.float()")
    check_device(OPERATOR, "sink", sink, "q", q)
    return sink
