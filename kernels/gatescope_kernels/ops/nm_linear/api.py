"""N:M masked linear: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_kernels.ops._common import choose
from gatescope_kernels.ops.nm_linear import blockwise, reference
from gatescope_kernels.ops.nm_linear.compressed import compress_2_4, decompress_2_4
from gatescope_kernels.ops.nm_linear.validate import check_linear, check_masks, check_weight

Impl = Literal["auto", "reference", "blockwise", "fused"]
Backward = Literal["ste", "srste", "masked"]

__all__ = ["compress_2_4", "decompress_2_4", "mask_divergence", "nm_linear", "nm_mask", "nm_valid"]


def _fused_linear(*arguments: Any) -> Tensor:
    from gatescope_kernels.ops.nm_linear import fused

    return fused.linear(*arguments)


def _fused_mask(weight: Tensor, n: int, m: int) -> Tensor:
    from gatescope_kernels.ops.nm_linear import fused

    return fused.mask_of(weight, n, m)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "reference": reference.linear,
    "blockwise": blockwise.linear,
    "fused": _fused_linear,
}
MASKS: dict[str, Callable[..., Tensor]] = {"blockwise": blockwise.mask_of, "fused": _fused_mask}


def nm_linear(
    x: Float[Tensor, "*B D"],
    weight: Float[Tensor, "F D"],
    bias: Float[Tensor, " F"] | None = None,
    *,
    n: int = 2,
    m: int = 4,
    backward: Backward = "srste",
    decay: float = 2e-4,
    impl: Impl = "auto",
) -> Float[Tensor, "*B F"]:
    """A linear layer that reads only the n largest of each m contiguous weights of a row.

        y = x (w * mask)^T + b        mask = nm_mask(w, n, m), a constant of the backward

    backward  what w receives, with g = dLoss/d(w * mask) = dy^T x, dense:
              "ste"     g                             straight through: pruned weights learn too and may come back
              "srste"   g + decay * (1 - mask) * w    also shrinks the pruned ones, so that the mask settles
              "masked"  g * mask                      pruned weights stand still
    decay     lambda of "srste", tuned for SGD; the other two do not read it. It is added once a backward, whatever the
              loss is scaled by
    impl      "auto" is "fused", Triton kernels, on a GPU, and "blockwise" elsewhere and in float64; "reference" sorts
              every group and is for tests

    **This does not run faster than a dense layer.** The masked weight is multiplied as a dense matrix, on CPU and on
    GPU; the speed of 2:4 needs sparse tensor cores, whose storage compress_2_4 makes.

    fp16 and bf16 products accumulate in fp32; the output keeps x.dtype. Values are not scanned: NaN counts as the
    largest magnitude, so a NaN weight is kept and shows, and an infinite weight that is pruned shows as 0 * inf = NaN.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, D not a multiple of m, an unknown impl, and
    an impl that cannot run here.

    Source: Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, SR-STE.
    """
    check_linear(x, weight, bias, n, m, backward, decay)
    return choose("nm_linear", impl, IMPLEMENTATIONS, x)(x, weight, bias, n, m, backward, decay)


def nm_mask(weight: Float[Tensor, "F D"], n: int, m: int) -> Bool[Tensor, "F D"]:
    """True on the n weights of largest magnitude in each m contiguous inputs of a row; always exactly n a group.

    Of equal magnitudes the lowest index is kept, on every device; NaN is larger than any number. Raises Refusal for a
    weight that is no matrix in a floating dtype, n outside [1, m], or D not a multiple of m.
    """
    check_weight("nm_mask", weight, n, m)
    return choose("nm_mask", "auto", MASKS, weight)(weight, n, m)


def nm_valid(weight: Float[Tensor, "F D"], n: int, m: int) -> bool:
    """Whether at most n of each m contiguous inputs of every row are non-zero (NaN is non-zero). Raises as nm_mask."""
    check_weight("nm_valid", weight, n, m)
    return bool(((weight.detach().unflatten(1, (-1, m)) != 0).sum(-1) <= n).all())


def mask_divergence(mask_a: Bool[Tensor, ...], mask_b: Bool[Tensor, ...]) -> float:
    """SAD, sparse architecture divergence: the share of weights that are pruned in one mask and kept in the other.

        SAD = |mask_a - mask_b|_1 / number of weights        from 0 (same mask) to 1; 2:4 masks can reach 1

    Two independent masks that keep n of m differ in 2 (n/m) (1 - n/m) of the weights on average: 0.5 for 2:4. As a
    count of weights it is this times their number. Raises Refusal for masks that are not bool, are empty, or differ in
    shape or device.

    Source: Zhou et al. 2021, who plot how fast it falls during training.
    """
    check_masks(mask_a, mask_b)
    return (mask_a ^ mask_b).count_nonzero().item() / mask_a.numel()
