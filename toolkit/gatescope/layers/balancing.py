"""Keeping all experts at work: rules that a training loop applies to whatever routers a model has.

balancer = Balancer(model, BiasUpdate(rate=1e-2))
with attached(model, balancer):
    loss = task_loss(model(x)) + balancer.loss()       # 0 unless the rule is a loss
    loss.backward(); optimizer.step(); balancer.step()
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.moe import MoE
from gatescope.taps import Handler, RouterScores


@dataclass(frozen=True, slots=True)
class AuxiliaryLoss:
    """The load-balancing loss of Switch Transformers, times ``weight``; see `switch_loss`. Raises Refusal below 0.

    Source: Fedus et al. 2021, eq. 4 to 6; their weight is 1e-2.
    """

    weight: float = 1e-2

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise Refusal("AuxiliaryLoss", "weight >= 0", f"{self.weight}", "Switch Transformers have 1e-2")


@dataclass(frozen=True, slots=True)
class BiasUpdate:
    """Loss-free balancing: `MoE.balance` with ``rate`` after every step. Raises Refusal for a rate that is not above 0.

    Source: Wang et al. 2024, Auxiliary-Loss-Free Load Balancing; their rate is 1e-3.
    """

    rate: float = 1e-3

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise Refusal("BiasUpdate", "rate > 0", f"{self.rate}", "Wang et al. have 1e-3")


Rule = AuxiliaryLoss | BiasUpdate | None


def load_of(scores: RouterScores) -> Float[Tensor, " E"]:
    """N_e: how many choices name expert e with a weight that is not 0."""
    visited = scores.index[scores.weight.detach() != 0]
    return torch.bincount(visited, minlength=scores.probabilities.shape[-1]).to(scores.probabilities.dtype)


def switch_loss(scores: RouterScores) -> Float[Tensor, ""]:
    """E sum_e f_e P_e: 1 where router and load are even, up to E where one expert has everything.

        f_e = N_e / sum_j N_j  (no gradient),    P_e = mean over tokens of p_e / sum_j p_j

    Source: Fedus et al. 2021, Switch Transformers, eq. 4 to 6.
    """
    load = load_of(scores)
    p = scores.probabilities.flatten(0, -2)
    importance = (p / p.sum(-1, keepdim=True)).mean(0)
    return len(load) * (load / load.sum().clamp(min=1) * importance).sum()


class Balancer(Handler):
    """Applies one rule to every router of a model, layer by layer.

    model  a model whose `MoE` layers are meant; with BiasUpdate all of them must have balancing="bias"
    rule   may be replaced between two steps

    Raises Refusal for BiasUpdate and a model without an `MoE` layer that has a bias.
    """

    sites = frozenset({"router"})

    def __init__(self, model: nn.Module, rule: Rule) -> None:
        self._layers = {module.layer: module for module in model.modules() if isinstance(module, MoE)}
        self._seen: list[tuple[int | None, RouterScores]] = []
        if isinstance(rule, BiasUpdate) and any(layer.bias is None for layer in self._layers.values()):
            raise Refusal("Balancer", "layers with balancing='bias'", "one without", "build the model with it")
        if not self._layers:
            raise Refusal("Balancer", "a model with MoE layers", type(model).__name__, "leave the balancer out")
        self.rule = rule

    def edit(self, site: str, layer: int | None, value: RouterScores) -> RouterScores:
        """Keep what the router said; change nothing."""
        self._seen.append((layer, value))
        return value

    def loss(self) -> Float[Tensor, ""]:
        """What to add to the loss for the forward passes since the last `step`: the sum over layers, 0 for other rules.

        Raises Refusal when no router was seen.
        """
        if not self._seen:
            raise Refusal("Balancer.loss", "a forward pass since the last step", "none", "attach it: taps.attached")
        if not isinstance(self.rule, AuxiliaryLoss):
            return self._seen[0][1].probabilities.new_zeros(())
        return self.rule.weight * torch.stack([switch_loss(scores) for _, scores in self._seen]).sum()

    def step(self) -> None:
        """After the optimiser's step: move the biases, where the rule moves them, and forget the passes seen."""
        if isinstance(self.rule, BiasUpdate):
            loads: dict[int | None, Tensor] = {}
            for layer, scores in self._seen:
                loads[layer] = loads.get(layer, 0) + load_of(scores)
            for layer, load in loads.items():
                self._layers[layer].balance(load, self.rule.rate)
        self._seen.clear()


__all__ = ["AuxiliaryLoss", "Balancer", "BiasUpdate", "Rule", "load_of", "switch_loss"]
