"""What the N:M functions refuse. Only shapes, dtypes, devices and options are read here, never values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import check_device, check_dtype, check_filled, check_floating, check_tensor

BACKWARDS = ("ste", "srste", "masked")


def check_linear(x: Any, weight: Any, bias: Any, n: int, m: int, backward: str, decay: float) -> None:
    """Everything `nm_linear` takes. Raises Refusal."""
    operator = "nm_linear"
    check_weight(operator, weight, n, m)
    F, D = weight.shape
    _check_floating(operator, "x [* D]", x)
    if x.dim() == 0 or x.shape[-1] != D:
        wanted = f"x [* D] with weight's D = {D} last"
        raise Refusal(
            operator, wanted, str(tuple(x.shape)), "weight is [F D] = [out in]; transpose the one that is not"
        )
    _check_like_weight(operator, "x", x, weight)
    if bias is not None:
        _check_floating(operator, "bias [F]", bias)
        if tuple(bias.shape) != (F,):
            raise Refusal(operator, f"bias [F] = ({F},)", str(tuple(bias.shape)), "pass one number an output, or None")
        _check_like_weight(operator, "bias", bias, weight)
    if backward not in BACKWARDS:
        raise Refusal(operator, f"backward in {BACKWARDS}", repr(backward), "use backward='srste', the published one")
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not (math.isfinite(decay) and decay >= 0):
        raise Refusal(
            operator, "decay: a finite number >= 0", repr(decay), "use decay=2e-4, or backward='ste' for none"
        )


def check_weight(operator: str, weight: Any, n: int, m: int) -> None:
    """A matrix whose rows divide into groups of m, and a pattern that fits. Raises Refusal."""
    _check_floating(operator, "weight [F D]", weight)
    if weight.dim() != 2:
        next_step = "flatten what a row reads, as in weight.flatten(1)"
        raise Refusal(operator, "weight [F D]", str(tuple(weight.shape)), next_step)
    for name, value in (("n", n), ("m", m)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refusal(operator, f"{name}: an int", repr(value), "use n=2, m=4 for the hardware's pattern")
    if not 1 <= n <= m:
        raise Refusal(operator, "1 <= n <= m", f"n = {n}, m = {m}", "n of m weights are kept; n = m keeps all of them")
    if weight.shape[1] % m:
        raise Refusal(
            operator,
            f"weight [F D] with D a multiple of m = {m}",
            f"D = {weight.shape[1]}",
            "choose an m that divides it, or pad the inputs with zeros",
        )


def check_masks(mask_a: Any, mask_b: Any) -> None:
    """Two masks of the same weights. Raises Refusal."""
    operator = "mask_divergence"
    for name, mask in (("mask_a", mask_a), ("mask_b", mask_b)):
        if not isinstance(mask, Tensor):
            raise Refusal(operator, f"{name} as a tensor", type(mask).__name__, "pass what nm_mask returns")
        if mask.dtype != torch.bool:
            next_step = f"pass {name} != 0 if it holds masked weights"
            raise Refusal(operator, f"{name} of bool", str(mask.dtype), next_step)
    if mask_a.shape != mask_b.shape:
        wanted = f"mask_b of mask_a's shape {tuple(mask_a.shape)}"
        raise Refusal(operator, wanted, str(tuple(mask_b.shape)), "compare two masks of one weight")
    if mask_a.numel() == 0:
        raise Refusal(operator, "masks with no dimension of 0", str(tuple(mask_a.shape)), "skip empty layers")
    check_device(operator, "mask_b", mask_b, "mask_a", mask_a)


def check_compressed(values: Any, metadata: Any) -> None:
    """Values [F D/2] and the bytes that place them. Raises Refusal."""
    operator = "decompress_2_4"
    _check_floating(operator, "values [F D/2]", values)
    if values.dim() != 2 or values.shape[1] % 2:
        wanted = "values [F D/2] with an even number of columns"
        raise Refusal(operator, wanted, str(tuple(values.shape)), "pass what compress_2_4 returns, two values a group")
    if not isinstance(metadata, Tensor):
        raise Refusal(operator, "metadata as a tensor", type(metadata).__name__, "pass what compress_2_4 returns")
    shape = (values.shape[0], -(-values.shape[1] // 4))
    if metadata.dtype != torch.uint8 or tuple(metadata.shape) != shape:
        got = f"{metadata.dtype} {tuple(metadata.shape)}"
        next_step = "pass what compress_2_4 returns; int16 words are metadata.view(torch.uint8)"
        raise Refusal(operator, f"metadata [F ceil(D/8)] = {shape} of torch.uint8", got, next_step)
    check_device(operator, "metadata", metadata, "values", values)


def _check_floating(operator: str, what: str, x: Any) -> None:
    check_tensor(operator, what, x)
    check_floating(operator, what.split()[0], x)
    check_filled(operator, what, x)


def _check_like_weight(operator: str, name: str, x: Tensor, weight: Tensor) -> None:
    check_dtype(operator, name, x, "weight", weight)
    check_device(operator, name, x, "weight", weight)
