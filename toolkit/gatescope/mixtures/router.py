"""Which expert speaks at an input: softmax over linear scores, cut to the top K, cooled, or bent by an activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal

Temperature = Literal["fixed", "learned"]
#: Activation -> (function, derivative, whether act(c z) = c act(z) for c > 0).
ROUTER_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], bool]] = {
    "identity": (lambda z: z, torch.ones_like, True),
    "relu": (torch.relu, lambda z: (z > 0).to(z), True),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, False),
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """The gate of a Gaussian mixture of experts.

        z_e = w_e . x,    logit_e = (act(z_e) + b_e) / tau,    pi = softmax over the k experts of largest z_e

    k            experts that stay; None or as many as there are: all (the dense softmax gate)
    activation   a row of ROUTER_ACTIVATIONS: "identity" is the linear gate, others the activation dense-to-sparse gate
    temperature  "fixed": tau stays what it is; "learned": tau is estimated with the rest (the dense-to-sparse gate)

    The bias has no say in who stays: TopK ranks w_e . x. Sources: Nguyen et al. 2023 (arXiv 2309.13850), section 1, for
    the Top-K gate; Nguyen et al. 2024 (arXiv 2401.13875), sections 1 and 3, for temperature and activation. Ranking
    without the bias is a reconstruction.

    Raises Refusal for k below 1 and names outside these lists.
    """

    k: int | None = None
    activation: str = "identity"
    temperature: Temperature = "fixed"

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise Refusal("RouterSpec", "k >= 1, or None for all experts", f"k={self.k}", "keep at least one expert")
        for field, allowed in (
            ("activation", tuple(ROUTER_ACTIVATIONS)),
            ("temperature", get_args(Temperature)),
        ):
            if getattr(self, field) not in allowed:
                raise Refusal("RouterSpec", f"{field} in {allowed}", repr(getattr(self, field)), "choose one of them")

    @property
    def homogeneous(self) -> bool:
        """Whether (c w, c b, c tau) is the same gate for every c > 0, so that no data can tell tau."""
        return ROUTER_ACTIVATIONS[self.activation][2]

    def chosen(self, z: Float[Tensor, "R n E"]) -> Bool[Tensor, "R n E"]:
        """Which experts stay at every input."""
        if self.k is None or self.k >= z.shape[-1]:
            return torch.ones_like(z, dtype=torch.bool)
        return torch.zeros_like(z, dtype=torch.bool).scatter_(-1, z.topk(self.k, dim=-1).indices, True)

    def logits(
        self, z: Float[Tensor, "R n E"], bias: Float[Tensor, "R E"], log_temperature: Float[Tensor, " R"]
    ) -> Float[Tensor, "R n E"]:
        """(act(z) + b) / tau before any expert is cut."""
        act = ROUTER_ACTIVATIONS[self.activation][0]
        return (act(z) + bias[:, None]) * torch.exp(-log_temperature)[:, None, None]

    def log_weights(
        self, z: Float[Tensor, "R n E"], bias: Float[Tensor, "R E"], log_temperature: Float[Tensor, " R"]
    ) -> Float[Tensor, "R n E"]:
        """log pi, -inf for an expert that is cut."""
        logits = self.logits(z, bias, log_temperature)
        return logits.masked_fill(~self.chosen(z), -math.inf).log_softmax(-1)
