"""2:4 storage: half the values, and two bits that say where each stood."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops.nm_linear.blockwise import mask_of
from gatescope_kernels.ops.nm_linear.validate import check_compressed, check_weight


def compress_2_4(weight: Float[Tensor, "F D"]) -> tuple[Float[Tensor, "F values"], UInt8[Tensor, "F bytes"]]:
    """A 2:4 valid weight as values [F D/2] and metadata [F ceil(D/8)], a byte for two groups of four inputs.

        byte = i0 | i1 << 2 | i2 << 4 | i3 << 6

    i0 < i1 are the places (0 to 3) of the two stored values of the even group, i2 < i3 those of the odd one; after an
    odd number of groups the last four bits are 0. A group with fewer than two non-zeros stores zeros from the lowest
    index on. Where D is a multiple of 16, ``metadata.view(torch.int16)`` (little-endian) is the metadata of NVIDIA's
    sparse tensor cores for 16-bit values, before CUTLASS interleaves its rows; README.md has the steps.

    The values keep weight's dtype and carry its gradient. Raises Refusal for a weight that is no matrix in a floating
    dtype, has D not a multiple of 4, or has a group with more than two non-zeros (NaN is one).
    """
    operator = "compress_2_4"
    check_weight(operator, weight, 2, 4)
    F, D = weight.shape
    crowded = (weight.detach().unflatten(1, (-1, 4)) != 0).sum(-1) > 2
    if crowded.any():
        row, group = crowded.nonzero()[0].tolist()
        raise Refusal(
            operator,
            "weight with at most 2 non-zeros in each 4 contiguous inputs",
            f"more in {int(crowded.sum())} of {crowded.numel()} groups, first in row {row}, inputs {4 * group} to "
            f"{4 * group + 3}",
            "pass weight * nm_mask(weight, 2, 4)",
        )
    kept = mask_of(weight, 2, 4)
    places = torch.arange(D, device=weight.device).remainder_(4).to(torch.uint8).expand(F, -1)[kept].view(F, -1, 2)
    codes = places[..., 0] | places[..., 1] << 2
    codes = functional.pad(codes, (0, codes.shape[1] % 2))
    return weight[kept].view(F, D // 2), codes[:, 0::2] | codes[:, 1::2] << 4


def decompress_2_4(values: Float[Tensor, "F values"], metadata: UInt8[Tensor, "F bytes"]) -> Float[Tensor, "F D"]:
    """The weight that `compress_2_4` stored, equal in every element (a zero that was not stored is +0).

    Differentiable in ``values``. Raises Refusal for shapes, dtypes or devices that do not fit, and for metadata whose
    places in a group do not ascend or whose unused bits are set: bytes that compress_2_4 never wrote.
    """
    check_compressed(values, metadata)
    F, groups = values.shape[0], values.shape[1] // 2
    codes = torch.stack((metadata & 15, metadata >> 4), -1).flatten(1)
    places = torch.stack((codes & 3, codes >> 2), -1)
    if (places[:, :groups, 0] >= places[:, :groups, 1]).any() or codes[:, groups:].any():
        raise Refusal(
            "decompress_2_4",
            "metadata with two ascending places a group, unused bits 0",
            "other bytes",
            "pass the metadata that compress_2_4 returned with these values; undo any interleaving first",
        )
    first_input = torch.arange(0, 4 * groups, 4, device=values.device)[:, None]
    columns = (places[:, :groups] + first_input).flatten(1)
    return values.new_zeros(F, 4 * groups).scatter(1, columns, values)
