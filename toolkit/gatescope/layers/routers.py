"""A router whose number of experts a token is not fixed: dense at first, sparse once its temperature has fallen.

Shapes: N tokens, E experts, k the most experts that any of the tokens keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.gates import Schedule

Noise = Literal["gumbel", "none"]


@dataclass(frozen=True, slots=True)
class DenseToSparse:
    """A gate that begins with all experts and keeps fewer as its temperature falls.

    temperature  over optimiser steps, see `MoE.anneal`
    threshold    an expert of a smaller probability is left out; 0 keeps all
    noise        "gumbel": Gumbel(0, 1) is added to the logits while the layer trains; "none"

    Raises Refusal for a threshold outside [0, 1) and an unknown noise.

    Source: Nie et al. 2021, EvoMoE (the DTS gate of its gate-sparsify phase).
    """

    temperature: Schedule
    threshold: float = 1e-3
    noise: Noise = "gumbel"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise Refusal("DenseToSparse", "threshold in [0, 1)", f"{self.threshold}", "EvoMoE's code has 1e-3")
        if self.noise not in get_args(Noise):
            raise Refusal("DenseToSparse", f"noise in {get_args(Noise)}", repr(self.noise), "choose one of them")


def dense_to_sparse(
    logits: Float[Tensor, "N E"],
    *,
    temperature: float,
    threshold: float,
    least: int = 1,
    renormalise: bool = False,
    noise: Float[Tensor, "N E"] | None = None,
) -> tuple[Float[Tensor, "N E"], Int[Tensor, "N k"], Float[Tensor, "N k"]]:
    """The logits as the softmax sees them, and the experts a token keeps, best first, with their weights.

        z = (logits + noise) / temperature,    p = softmax(z)
        kept where p > threshold, and the ``least`` best in any case;    weight = p, or p / sum over kept of p

    A token that keeps fewer than k experts has weight 0 for the rest. At temperature 0, the limit, p is 1 for the best
    expert (of equals the one of lowest number). A NaN shows as NaN in its own row.
    Raises Refusal for a temperature below 0 or not finite, and for ``least`` outside [1, E].

    Source: Nie et al. 2021, EvoMoE. Weights are not renormalised in its code.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise Refusal("dense_to_sparse", "a finite temperature of 0 or more", f"{temperature}", "0 keeps the best only")
    E = logits.shape[-1]
    if not 1 <= least <= E:
        raise Refusal("dense_to_sparse", f"least in [1, E] = [1, {E}]", f"{least}", "a token keeps one expert or more")
    z_NE = logits if noise is None else logits + noise
    if temperature > 0:
        z_NE = z_NE / temperature
    else:
        best = z_NE.argmax(-1, keepdim=True)
        z_NE = torch.full_like(z_NE, -torch.inf).scatter(-1, best, 0.0).where(~z_NE.isnan().any(-1, True), torch.nan)
    p_NE = z_NE.softmax(-1)
    weight, index = p_NE.sort(dim=-1, descending=True, stable=True)
    kept = weight.detach() > threshold
    kept[:, :least] = True
    k = int(kept.sum(-1).max()) if len(kept) else least
    weight = weight.masked_fill(~kept, 0.0)[:, :k]
    return z_NE, index[:, :k], weight / weight.sum(-1, keepdim=True) if renormalise else weight


def gumbel_like(logits: Float[Tensor, "N E"], generator: torch.Generator) -> Float[Tensor, "N E"]:
    """Gumbel(0, 1) = -log(Exponential(1)), as many as there are logits."""
    return torch.empty_like(logits).exponential_(generator=generator).log_().neg_()


__all__ = ["DenseToSparse", "dense_to_sparse", "gumbel_like"]
