"""Routed experts and nothing else: the smallest model in which a router can be watched."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.layers import MoE, MoESpec
from gatescope.taps import tap


class RoutedRegressor(nn.Module):
    """A vector to a vector of the same width through one `MoE` layer. Samples pass as the tokens of one sequence.

    Weights are drawn from ``init_seed`` alone; ``layer`` takes the place of a new one, for instance after surgery.
    """

    tap_sites = frozenset({"embed", "router", "resid"})

    def __init__(self, spec: MoESpec, width: int, *, init_seed: int = 0, layer: MoE | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(init_seed)
        self.experts = MoE(spec, width, layer=0, generator=generator) if layer is None else layer

    def forward(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """What the experts make of every sample."""
        return tap("resid", self.experts(tap("embed", x[None])), layer=0)[0]
