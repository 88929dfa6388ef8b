"""The candidate operations of an edge. All keep the size of an image and its number of channels.

An operation with weights is ReLU, convolution, norm; the norm has no weights of its own. Its sparse counterpart is the
same operation after `gatescope.sparsifiers.to_sparse`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of OPERATIONS.

    build    (channels, generator) -> the operation; None for "zero", which is not computed
    weights  channels -> weights it has
    shows    what it does
    """

    name: str
    build: Callable[[int, torch.Generator | None], nn.Module] | None
    weights: Callable[[int], int]
    shows: str


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    generator: torch.Generator | None,
    *,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Conv2d:
    """A convolution without bias that keeps the size of an image; He et al. 2015: W ~ N(0, 2 / fan-in)."""
    around = {"padding": dilation * (size // 2), "dilation": dilation, "groups": groups}
    layer = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, bias=False, **around)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (inputs // groups * size**2)), generator=generator)
    return layer


def norm(channels: int) -> nn.GroupNorm:
    """One mean and one variance an image, no weights: what is measured does not depend on the batch."""
    return nn.GroupNorm(1, channels, affine=False)


def _conv(size: int, dilation: int = 1) -> Callable[[int, torch.Generator | None], nn.Module]:
    return lambda channels, generator: nn.Sequential(
        nn.ReLU(), convolution(channels, channels, size, generator, dilation=dilation), norm(channels)
    )


def _separable(channels: int, generator: torch.Generator | None) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        convolution(channels, channels, 3, generator, groups=channels),
        convolution(channels, channels, 1, generator),
        norm(channels),
    )


_TABLE = (
    Operation("zero", None, lambda c: 0, "no edge: nothing is added"),
    Operation("skip", lambda c, g: nn.Identity(), lambda c: 0, "the input as it is"),
    Operation(
        "average 3x3",
        lambda c, g: nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), norm(c)),
        lambda c: 0,
        "the mean over 3 x 3 pixels",
    ),
    Operation("conv 1x1", _conv(1), lambda c: c**2, "a linear map of every pixel"),
    Operation("separable 3x3", _separable, lambda c: 9 * c + c**2, "3 x 3 pixels of each channel, then a linear map"),
    Operation("conv 3x3", _conv(3), lambda c: 9 * c**2, "a convolution over 3 x 3 pixels"),
    Operation("dilated 3x3", _conv(3, 2), lambda c: 9 * c**2, "a convolution over 9 of 5 x 5 pixels"),
)
#: Name -> Operation.
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _TABLE}
#: The one that is no edge.
ZERO = "zero"


def mixed(outputs: Sequence[Tensor | None], weights: Float[Tensor, " O"]) -> Tensor:
    """sum_o w_o f_o(x) over the outputs of all candidates; None stands for an output of zeros.

    Raises Refusal where every output is None, or there are not as many as weights.

    Source: Liu et al. 2018 (DARTS), eq. 2, with weights = softmax(alpha).
    """
    if len(outputs) != len(weights) or all(output is None for output in outputs):
        got = f"{sum(output is not None for output in outputs)} of {len(outputs)} for {len(weights)} weights"
        raise Refusal("mixed", "an output for every weight, one of them not zero", got, "pass one a candidate")
    parts = [weight * output for weight, output in zip(weights, outputs, strict=True) if output is not None]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


__all__ = ["OPERATIONS", "ZERO", "Operation", "convolution", "mixed", "norm"]
