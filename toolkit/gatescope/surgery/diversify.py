"""One trained expert becomes many: copies of which each forgets another random part."""

from __future__ import annotations

import torch
from torch import nn

from gatescope.errors import Refusal
from gatescope.layers import MoE, MoESpec


@torch.no_grad()
def diversify(base: MoE, spec: MoESpec, *, masked: float = 0.5, generator: torch.Generator | None = None) -> MoE:
    """A layer of ``spec`` whose experts are the one expert of ``base``, each with zeros of its own.

        W_e = M_e * W,    M_e ~ Bernoulli(1 - masked) for every weight of every expert;    W_r ~ N(0, init_std^2)

    ``masked`` = 0 gives identical copies, the ablation. What is masked learns again like any other weight. The router
    is new: one expert had nothing to choose from.

    Raises Refusal for a base with several experts, for another width inside, and for masked outside [0, 1).

    Source: Nie et al. 2021, EvoMoE (expert-diversify phase). That masked weights are not rescaled is a reconstruction.
    """
    if base.spec.experts != 1:
        raise Refusal("diversify", "a base with one expert", f"{base.spec.experts}", "train MoESpec(experts=1, k=1)")
    if base.spec.hidden != spec.hidden:
        got = f"{base.spec.hidden} in the base, {spec.hidden} wanted"
        raise Refusal("diversify", "experts as wide as the base", got, "give both specs the same hidden")
    if not 0 <= masked < 1:
        raise Refusal("diversify", "masked in [0, 1)", f"{masked}", "a masked share of 1 would leave nothing to copy")
    layer = MoE(spec, base.router.in_features, layer=base.layer, generator=generator).to(base.w_up)
    for name in ("w_gate", "w_up", "w_down"):
        weight: nn.Parameter = getattr(layer, name)
        kept = torch.rand(weight.shape, generator=generator) >= masked
        weight.copy_(getattr(base, name) * kept.to(weight))
    return layer


__all__ = ["diversify"]
