"""Pruning: which weights go next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gatescope.errors import NonFiniteError, Refusal
from gatescope.sparsifiers.masks import Masks, dense_masks

By = Literal["magnitude", "random"]
Scope = Literal["layer", "global"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSpec:
    """One cut.

    share   of the weights that still stay, to go now; in [0, 1). The count is rounded, halves to even
    by      "magnitude": the smallest |w| go; "random": any, from ``seed``
    scope   "layer": every matrix loses this share of its own; "global": all are ranked together
    shares  (name, share) of matrices that lose another share of their own, with scope "layer". Frankle and Carbin 2018
            prune the output layer at half the rate
    seed    of random cuts

    Raises Refusal for a share outside [0, 1), for unknown words, and for ``shares`` with scope "global".
    """

    share: float = 0.2
    by: By = "magnitude"
    scope: Scope = "layer"
    shares: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for share in (self.share, *dict(self.shares).values()):
            if not 0 <= share < 1:
                raise Refusal("PruneSpec", "a share in [0, 1)", f"{share}", "a model without weights says nothing")
        for field, kinds in (("by", By), ("scope", Scope)):
            if getattr(self, field) not in get_args(kinds):
                wanted = f"{field} in {get_args(kinds)}"
                raise Refusal("PruneSpec", wanted, repr(getattr(self, field)), "choose one of them")
        if self.shares and self.scope == "global":
            got = ", ".join(name for name, _ in self.shares)
            raise Refusal("PruneSpec", "no shares of single matrices with scope 'global'", got, "use scope='layer'")


def prune(model: nn.Module, spec: PruneSpec, masks: Masks | None = None) -> Masks:
    """The masks that are left of ``masks`` (everything, unless given) after one cut; ``model`` is not changed.

    Only what still stays is ranked and counted. Of equal magnitudes the lowest index stays. Raises Refusal for shares
    of unknown matrices, NonFiniteError for weights that are NaN or infinite.

    Source: Han et al. 2015, Learning both Weights and Connections; per layer as Frankle and Carbin 2018 do.
    """
    masks = dense_masks(model) if masks is None else masks
    unknown = sorted(dict(spec.shares).keys() - masks.keys())
    if unknown:
        raise Refusal("prune", f"shares of {', '.join(masks)}", ", ".join(unknown), "take names of model's parameters")
    scores = _scores(model, spec, masks)
    if spec.scope == "global":
        joined = _cut(
            torch.cat([score.flatten() for score in scores.values()]),
            torch.cat([mask.flatten() for mask in masks.values()]),
            spec.share,
        )
        parts = joined.split([mask.numel() for mask in masks.values()])
        return {name: part.view_as(masks[name]) for name, part in zip(masks, parts, strict=True)}
    own = dict(spec.shares)
    return {
        name: _cut(scores[name].flatten(), mask.flatten(), own.get(name, spec.share)).view_as(mask)
        for name, mask in masks.items()
    }


def _scores(model: nn.Module, spec: PruneSpec, masks: Masks) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    if spec.by == "random":
        generator = torch.Generator().manual_seed(spec.seed)
        return {name: torch.rand(mask.shape, generator=generator).to(mask.device) for name, mask in masks.items()}
    scores = {name: parameters[name].detach().abs() for name in masks}
    for name, score in scores.items():
        if not score.isfinite().all():
            raise NonFiniteError("prune", f"finite {name}", "NaN or infinity", "look for a step that diverged")
    return scores


def _cut(scores: Tensor, stay: Tensor, share: float) -> Tensor:
    """``stay`` without the ``share`` of it that scores least."""
    count = int(stay.count_nonzero())
    kept = count - round(share * count)
    ranked = scores.masked_fill(~stay, -1).argsort(descending=True, stable=True)
    return torch.zeros_like(stay).index_fill_(0, ranked[:kept], True)


__all__ = ["PruneSpec", "prune"]
