"""What block-sparse attention refuses. Values of q, k and v are never read; those of block scores are."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
from gatescope_kernels.ops.block_sparse_attention.problem import Grid, Problem

OPERATOR = "block_sparse_attention"
BLOCK_MAX = "block_max_attention"
#: Bytes of a row of one head that the fused kernels hold in registers.
WIDEST_FUSED = 512
_SHAPES = {"q": "[B H T K]", "k": "[B G S K]", "v": "[B G S V]"}


def resolve(operator: str, tensors: Mapping[str, Tensor], causal: bool, block: int, scale: float | None) -> Problem:
    """Check q, k, v (where there is one) and the options; return the problem. Raises Refusal."""
    _check_tensors(operator, tensors)
    q, k = tensors["q"], tensors["k"]
    check_block(operator, block)
    check_causal(operator, causal)
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[3])
    elif isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise Refusal(operator, "a finite number as scale", repr(scale), "pass scale=None for 1 / sqrt(K)")
    grid = Grid(q.shape[2], k.shape[2], block, causal)
    return Problem(q.shape[0], q.shape[1], k.shape[1], grid, float(scale), accumulation_dtype(q), q.device)


def _check_tensors(operator: str, tensors: Mapping[str, Tensor]) -> None:
    q = tensors["q"]
    for name, x in tensors.items():
        shape = _SHAPES[name]
        check_tensor(operator, f"{name} {shape}", x)
        if x.dim() != 4:
            got = str(tuple(x.shape))
            raise Refusal(operator, f"{name} {shape}", got, "add the missing dimension, heads before positions")
        check_filled(operator, f"{name} {shape}", x)
        check_floating(operator, name, x)
        check_dtype(operator, name, x, "q", q)
        check_device(operator, name, x, "q", q)
        if x.shape[0] != q.shape[0]:
            wanted = f"{name} with q's batch B = {q.shape[0]}"
            raise Refusal(operator, wanted, str(x.shape[0]), "expand the smaller batch")
    k = tensors["k"]
    if k.shape[3] != q.shape[3]:
        wanted = f"k with q's width K = {q.shape[3]}"
        raise Refusal(operator, wanted, str(k.shape[3]), "project q and k to one head width")
    if "v" in tensors and tensors["v"].shape[1:3] != k.shape[1:3]:
        wanted = f"v [B G S V] with k's G, S = {tuple(k.shape[1:3])}"
        raise Refusal(operator, wanted, str(tuple(tensors["v"].shape[1:3])), "pass k and v of the same keys")
    if q.shape[1] % k.shape[1]:
        wanted = f"query heads H a multiple of key-value heads G = {k.shape[1]}"
        next_step = "shapes are [B heads positions channels]; use x.transpose(1, 2) if positions come first"
        raise Refusal(operator, wanted, f"H = {q.shape[1]}", next_step)


def check_block(operator: str, block: int) -> None:
    """A block is a positive whole number of positions."""
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise Refusal(operator, "block: a whole number >= 1", repr(block), "64 is what the published gates use")


def check_causal(operator: str, causal: bool) -> None:
    """A flag and nothing that merely looks like one."""
    if not isinstance(causal, bool):
        raise Refusal(operator, "causal: True or False", repr(causal), "causal=False lets every query see every key")


def check_mask(block_mask: Tensor, q: Tensor, problem: Problem) -> None:
    """A flag a pair of blocks, for each query head or each key-value head."""
    grid, B = problem.grid, problem.B
    shapes = dict.fromkeys((B, heads, grid.nQ, grid.nS) for heads in (problem.H, problem.G))
    wanted = f"block_mask {' or '.join(map(str, shapes))} of bool, True where a block is read"
    if not isinstance(block_mask, Tensor):
        raise Refusal(OPERATOR, wanted, type(block_mask).__name__, "make one with top_blocks(scores, keep=...)")
    if block_mask.dtype != torch.bool:
        raise Refusal(OPERATOR, wanted, str(block_mask.dtype), "make scores a mask with top_blocks or threshold_blocks")
    if tuple(block_mask.shape) not in shapes:
        next_step = (
            f"there are ceil(length / block) blocks of {grid.block}; one mask for all is mask.expand(B, H, -1, -1)"
        )
        raise Refusal(OPERATOR, wanted, str(tuple(block_mask.shape)), next_step)
    check_device(OPERATOR, "block_mask", block_mask, "q", q)


def unfit_for_fused(*tensors: Tensor) -> tuple[str, str] | None:
    """Wanted and got, where heads are too wide for the fused kernels."""
    width, most = max(x.shape[3] for x in tensors), WIDEST_FUSED // tensors[0].element_size()
    return None if width <= most else (f"heads of at most {most} channels in {tensors[0].dtype}", str(width))
