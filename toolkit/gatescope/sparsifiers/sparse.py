"""SparseLinear and SparseConv: layers that read a share of their weights as 0, anew in every pass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.sparsifiers.masks import Masks
from gatescope.sparsifiers.replacing import chosen_layers, put


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseSpec:
    """How much a sparse layer reads.

    share  of the layer's weights that are read as 0: the smallest |w|; in [0, 1). As in `prune`, the count is rounded

    Raises Refusal for a share outside [0, 1).
    """

    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise Refusal("SparseSpec", "a share in [0, 1)", f"{self.share}", "a layer without weights learns nothing")


class _Sparse(nn.Module):
    """A weight that is read sparse; ``spec`` may be replaced between two passes."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d, spec: SparseSpec) -> None:
        super().__init__()
        self.spec, self.weight, self.bias = spec, layer.weight, layer.bias

    @torch.no_grad()
    def mask(self) -> Bool[Tensor, ...]:
        """Where the weight is read now. Equal to what `prune` keeps of it, but where magnitudes are equal."""
        size = self.weight.numel()
        kept = size - round(self.spec.share * size)
        largest = self.weight.abs().flatten().topk(kept, sorted=False).indices
        return (
            torch.zeros(size, dtype=torch.bool, device=self.weight.device)
            .index_fill_(0, largest, True)
            .view_as(self.weight)
        )

    def read(self) -> Float[Tensor, ...]:
        """w * mask; every weight gets the gradient of what stood in its place (straight through)."""
        if self.spec.share == 0:
            return self.weight
        return self.weight + (self.weight * self.mask() - self.weight).detach()

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{', '.join(map(str, self.weight.shape))}, {self.spec.share:.1%} read as 0"


class SparseLinear(_Sparse):
    """A linear layer with the parameters of the one it stands for.

        y = x (w * m)^T + b,    m = 1 for the largest |w| of the layer, else 0

    Source: the operation of Mousavi et al. 2022 (DASS). Their code learns scores that start as magnitudes and ranks
    those; to rank the magnitudes themselves, with a straight-through gradient, is a reconstruction.
    """

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        return functional.linear(x, self.read(), self.bias)


class SparseConv(_Sparse):
    """A convolution over images with the parameters of the one it stands for; as `SparseLinear`, with * for the
    product. Raises Refusal for padding with anything but zeros."""

    def __init__(self, layer: nn.Conv2d, spec: SparseSpec) -> None:
        if layer.padding_mode != "zeros":
            raise Refusal("SparseConv", "padding_mode 'zeros'", repr(layer.padding_mode), "pad before the layer")
        super().__init__(layer, spec)
        self.stride, self.padding, self.dilation, self.groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    def forward(self, x: Float[Tensor, "B inputs height width"]) -> Float[Tensor, "B outputs rows columns"]:
        return functional.conv2d(x, self.read(), self.bias, self.stride, self.padding, self.dilation, self.groups)


def to_sparse(model: nn.Module, spec: SparseSpec, dense: Collection[str] = ()) -> nn.Module:
    """Put a `SparseLinear` or `SparseConv` in place of every ``nn.Linear`` and ``nn.Conv2d``, in place; returns
    ``model``. Names, optimisers and files stay as they are.

    dense  names of layers that stay as they are

    Raises Refusal where no layer is left or a name is no such layer, before anything is changed.
    """
    for name, layer in chosen_layers("to_sparse", model, (nn.Linear, nn.Conv2d), dense).items():
        put(model, name, SparseLinear(layer, spec) if isinstance(layer, nn.Linear) else SparseConv(layer, spec))
    return model


def set_sparsity(model: nn.Module, share: float) -> None:
    """Let all sparse layers of ``model`` read that share of their weights as 0 from now on. Raises Refusal for a model
    without them."""
    spec = SparseSpec(share=share)
    for layer in _layers(model).values():
        layer.spec = spec


def sparse_masks(model: nn.Module) -> Masks:
    """The masks that the sparse layers of ``model`` read now. Raises Refusal for a model without one."""
    return {f"{name}.weight": layer.mask() for name, layer in _layers(model).items()}


def _layers(model: nn.Module) -> dict[str, _Sparse]:
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, _Sparse)}
    if not found:
        raise Refusal("sparse layers", "a model with sparse layers", type(model).__name__, "make one with to_sparse")
    return found


__all__ = ["SparseConv", "SparseLinear", "SparseSpec", "set_sparsity", "sparse_masks", "to_sparse"]
