"""What exits are trained for: all alike, or jointly with the gates that will decide who uses them (JEI-DNN).

Shapes: B inputs, X intermediate exits, Y = X + 1 exits with the backbone's own, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.layers.exits import exit_probabilities

#: Largest weight of a rare label of a gate, in the authors' code.
_RAREST = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JointObjective:
    """The joint objective of gates and inference modules.

    trade  lambda, nats: what it may cost to use the last exit, in loss
    costs  of every exit, the backbone's own included; divided by the last they are c_l

    Raises Refusal for a trade below 0, and for costs that are not above 0.
    """

    trade: float | int
    costs: tuple[float | int, ...]

    def __post_init__(self) -> None:
        if not self.trade >= 0:
            raise Refusal("JointObjective", "trade >= 0", f"{self.trade}", "0 asks for accuracy alone")
        if not self.costs or not min(self.costs) > 0:
            raise Refusal("JointObjective", "costs above 0", f"{self.costs}", "see `exit_costs`")

    def target(self, losses: Float[Tensor, "B Y"]) -> Int[Tensor, " B"]:
        """Where an input should leave: argmin_l loss_l + lambda c_l."""
        price = losses.new_tensor(self.costs) / self.costs[-1]
        return (losses.detach() + self.trade * price).argmin(1)

    def losses(
        self, logits: Float[Tensor, "B Y C"], gate_logits: Float[Tensor, "B X"], labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """The loss of the gates and that of the inference modules, an input.

            gates      mean_l w_l BCE(gate logit_l, [target <= l])
            inference  sum_{l <= X} P_l loss_l                        P of `exit_probabilities`, a weight: no gradient

        A gate also learns to let out those that should have left before it. w_l = min(5, zeros / ones) where the label
        is one, else 1, counted over the batch. Neither loss moves the other's weights, so that adding them is to take
        both steps at once.

        Source: Regol et al. 2023, JEI-DNN, whose code alternates between the two every 20 batches, counts w on
        validation data, and rescales the weighted loss of every input to the sum of its losses.
        """
        losses = _losses(logits, labels)
        X = gate_logits.shape[1]
        wanted = (self.target(losses)[:, None] <= torch.arange(X)).to(gate_logits)
        ones = wanted.mean(0).clamp(min=1e-3)
        weight = torch.where(wanted > 0, ((1 - ones) / ones).clamp(max=_RAREST), 1.0)
        gates = (weight * functional.binary_cross_entropy_with_logits(gate_logits, wanted, reduction="none")).mean(1)
        p = exit_probabilities(gate_logits.detach())
        return gates, (p[:, :-1] * losses[:, :-1]).sum(1)


def uniform_loss(logits: Float[Tensor, "B Y C"], labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The mean loss of the intermediate exits, nats: all learn from every input. The baseline, and the warm-up."""
    return _losses(logits, labels)[:, :-1].mean(1)


def _losses(logits: Float[Tensor, "B Y C"], labels: Int[Tensor, " B"]) -> Float[Tensor, "B Y"]:
    every = labels[:, None].expand(logits.shape[:2])
    return functional.cross_entropy(logits.transpose(1, 2), every, reduction="none")


__all__ = ["JointObjective", "uniform_loss"]
