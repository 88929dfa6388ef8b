"""Masks: made for a model, counted, compared, shuffled, and put on its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from gatescope_kernels import mask_divergence
from jaxtyping import Bool
from torch import Tensor, nn

from gatescope.errors import Refusal

#: Name of a parameter -> which of its weights stay.
Masks = dict[str, Bool[Tensor, "..."]]


def dense_masks(model: nn.Module) -> Masks:
    """Masks that keep everything, for every matrix of ``model`` and every kernel of a convolution over images; biases
    and norms are not masked.

    Raises Refusal for a model without a matrix.
    """
    found = {name: torch.ones_like(w, dtype=torch.bool) for name, w in model.named_parameters() if w.ndim in (2, 4)}
    if not found:
        raise Refusal("dense_masks", "a model with weight matrices", f"{type(model).__name__} without", "pass a model")
    return found


def kept_share(masks: Masks) -> float:
    """Share of the masked parameters' weights that stay. Raises Refusal for no masks."""
    if not masks:
        raise Refusal("kept_share", "masks", "none", "make them with dense_masks(model)")
    return sum(int(mask.count_nonzero()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def divergence(before: Masks, after: Masks) -> float:
    """SAD, sparse architecture divergence, over all masks together: the share of weights that only one of them keeps.

    See `gatescope_kernels.mask_divergence`. Raises Refusal for masks of other parameters or shapes.

    Source: Zhou et al. 2021, who count weights where this divides by their number.
    """
    if not before or before.keys() != after.keys():
        wanted = f"masks of {', '.join(before) or 'at least one parameter'}"
        raise Refusal("divergence", wanted, ", ".join(after) or "none", "compare masks of one model")
    weights = {name: mask.numel() for name, mask in before.items()}
    changed = sum(mask_divergence(before[name], after[name]) * count for name, count in weights.items())
    return changed / sum(weights.values())


def shuffled(masks: Masks, seed: int) -> Masks:
    """As many weights in every parameter as ``masks`` keep, at random places: the control for *where* they are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view_as(mask)
        for name, mask in masks.items()
    }


@torch.no_grad()
def mask_weights(model: nn.Module, masks: Masks) -> None:
    """Set the weights that do not stay to 0, once; training brings them back. Raises Refusal for masks that do not
    fit, before anything is changed."""
    for weight, mask in _pairs(model, masks):
        weight.masked_fill_(~mask.to(weight.device), 0)


def hold_masks(model: nn.Module, masks: Masks) -> Callable[[], None]:
    """`mask_weights`, and from now on no gradient reaches the weights that do not stay; the function returned ends it.

    With Adam or SGD they then remain exactly 0: neither moves a weight that never had a gradient, unless it decays
    weights that are 0 already. Put masks on before the first step: moments that an optimiser has kept would move them.
    """
    pairs = _pairs(model, masks)
    mask_weights(model, masks)
    handles = []
    for weight, mask in pairs:
        own = mask.to(weight.device)
        handles.append(weight.register_hook(lambda gradient, own=own: gradient * own))

    def release() -> None:
        for handle in handles:
            handle.remove()

    return release


def _pairs(model: nn.Module, masks: Masks) -> list[tuple[nn.Parameter, Tensor]]:
    parameters = dict(model.named_parameters())
    wrong = [name for name, mask in masks.items() if name not in parameters or parameters[name].shape != mask.shape]
    if wrong:
        wanted = "masks named and shaped as parameters of the model"
        raise Refusal("masks", wanted, ", ".join(wrong), "make them with prune(model, ...) of the same architecture")
    return [(parameters[name], mask) for name, mask in masks.items()]


__all__ = ["Masks", "dense_masks", "divergence", "hold_masks", "kept_share", "mask_weights", "shuffled"]
