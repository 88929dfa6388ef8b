"""Leaving a network early: intermediate exits, gates that learn when to take them, and the threshold they replace.

Shapes: B inputs, X intermediate exits, Y = X + 1 exits with the backbone's own, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.init import STD

Score = Literal["gate", "confidence"]
#: What a gate reads of the prediction at its exit.
EVIDENCE = ("largest probability", "entropy", "margin of the first over the second", "entropy of p^2, renormalised")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitSpec:
    """Intermediate exits of a backbone.

    widths   channels of the features that every intermediate exit reads, in the order of the backbone
    classes  logits of every exit

    Raises Refusal for no exit and sizes below 1.
    """

    widths: tuple[int, ...]
    classes: int

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.classes) < 1:
            got = f"widths={self.widths}, classes={self.classes}"
            raise Refusal("ExitSpec", "one exit or more, sizes >= 1", got, "name the width of every exit's features")


class Exits(nn.Module):
    """The intermediate inference modules of an `ExitSpec`, and a gate for each.

        logits_l = W_l h_l + b_l,    gate logit_l = v_l . evidence(logits_l) + c_l      (no gradient into the evidence)

    Gates start at 0, W_l ~ N(0, 0.02^2). Source: Regol et al. 2023, JEI-DNN; one linear map for each inference module
    is the smallest of theirs.
    """

    def __init__(self, spec: ExitSpec, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.heads = nn.ModuleList(_linear(width, spec.classes, STD, generator) for width in spec.widths)
        self.gates = nn.ModuleList(_linear(len(EVIDENCE), 1, 0.0, generator) for _ in spec.widths)

    def logits(self, features: Sequence[Float[Tensor, "B _"]]) -> Float[Tensor, "B X C"]:
        """What each of the first exits says, as many as there are ``features``."""
        return torch.stack([head(x) for head, x in zip(self.heads, features, strict=False)], dim=1)

    def gate_logits(self, logits: Float[Tensor, "B A C"]) -> Float[Tensor, "B A"]:
        """What the gates of the first A exits say of their predictions."""
        return torch.cat([self.gate_logit(place, logits[:, place]) for place in range(logits.shape[1])], dim=1)

    def gate_logit(self, place: int, logits: Float[Tensor, "B C"]) -> Float[Tensor, "B 1"]:
        """What the gate of one exit says of its predictions."""
        return self.gates[place](evidence(logits.detach()))

    def flops(self) -> list[int]:
        """Operations of every intermediate exit and its gate: 2 m n k a matrix product, nothing else counted."""
        return [2 * width * self.spec.classes + 2 * len(EVIDENCE) for width in self.spec.widths]


def _linear(d_in: int, d_out: int, std: float, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, d_in, d_out)
    nn.init.normal_(layer.weight, std=std, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def evidence(logits: Float[Tensor, "*B C"]) -> Float[Tensor, "*B 4"]:
    """`EVIDENCE` of a prediction: max p, -sum p log p, p_(1) - p_(2), and the entropy of p^2 / sum p^2.

    A prediction among one class has no second; its margin is 1. Source: Regol et al. 2023 and their code, where the
    last is named a power entropy; that the power is 2 is a reconstruction.
    """
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    best = p.topk(min(2, p.shape[-1]), dim=-1).values
    margin = best[..., 0] - best[..., 1] if p.shape[-1] > 1 else torch.ones_like(best[..., 0])
    log_squared = (2 * logits).log_softmax(-1)
    return torch.stack([best[..., 0], -(p * log_p).sum(-1), margin, -(log_squared.exp() * log_squared).sum(-1)], -1)


def exit_probabilities(gate_logits: Float[Tensor, "B X"]) -> Float[Tensor, "B Y"]:
    """The probability of leaving at every exit; the last takes what is left.

        P_l = max(0, min(g_l, 1 - sum_{m < l} g_m)),    g = sigmoid(gate logit);    rows sum to 1

    Source: Regol et al. 2023, JEI-DNN.
    """
    g = gate_logits.sigmoid()
    before = g.cumsum(1) - g
    p = torch.minimum(g, 1 - before).clamp(min=0)
    return torch.cat([p, (1 - p.sum(1, keepdim=True)).clamp(min=0)], dim=1)


def stopping(gate_logits: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """The probability of leaving at each of the first A exits, given that one has come so far.

    P_l / (1 - sum_{m < l} P_m), and 1 where nothing is left
    """
    p = exit_probabilities(gate_logits)[:, :-1]
    left = 1 - (p.cumsum(1) - p)
    return torch.where(left > 1e-6, p / left.clamp(min=1e-6), 1.0).clamp(max=1.0)


def first_exit(scores: Float[Tensor, "B X"], threshold: float) -> Int[Tensor, " B"]:
    """The first exit whose score is above ``threshold``, X where none is: at 1 nobody leaves early, at 0 everybody."""
    return (~(scores > threshold)).long().cumprod(1).sum(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRule:
    """When to leave: at the first exit whose score is above ``threshold``.

    score         "gate": `stopping`, and JEI-DNN leaves above 1/2; "confidence": the largest probability
    threshold     in [0, 1]
    temperatures  of the probabilities of every exit, the last included; None: 1 everywhere

    Raises Refusal for another score, a threshold outside [0, 1] and a temperature that is not above 0.
    """

    score: Score = "gate"
    threshold: float = 0.5
    temperatures: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise Refusal("ExitRule", f"a score of {get_args(Score)}", repr(self.score), "choose one of them")
        if not 0 <= self.threshold <= 1:
            raise Refusal("ExitRule", "a threshold in [0, 1]", f"{self.threshold}", "both scores are probabilities")
        if self.temperatures is not None and not min(self.temperatures) > 0:
            raise Refusal("ExitRule", "temperatures above 0", f"{self.temperatures}", "1 changes nothing")

    def cooled(self, logits: Float[Tensor, "B A C"]) -> Float[Tensor, "B A C"]:
        """Logits of the first A exits over their temperatures. Raises Refusal when there are too few temperatures."""
        return torch.stack([self.cooled_at(place, logits[:, place]) for place in range(logits.shape[1])], dim=1)

    def cooled_at(self, place: int, logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """`cooled` of one exit."""
        if self.temperatures is None:
            return logits
        if place >= len(self.temperatures):
            got = f"{len(self.temperatures)}, none for exit {place}"
            raise Refusal("ExitRule", "a temperature for every exit", got, "fit one for the last exit, too")
        return logits / self.temperatures[place]

    def scores(self, exits: Exits, logits: Float[Tensor, "B A C"]) -> Float[Tensor, "B A"]:
        """The score of the first A exits, from what they and those before them say."""
        if self.score == "confidence":
            return self.cooled(logits).softmax(-1).amax(-1)
        return stopping(exits.gate_logits(logits))


def exit_costs(stages: Sequence[float | int], exits: Sequence[float | int]) -> tuple[float | int, ...]:
    """The cost of leaving at every exit: all stages and all exits on the way, those that were passed by included.

        cost_l = sum_{m <= l} (stage_m + exit_m)

    ``stages`` and ``exits`` have one entry an exit, the last exit's is the backbone's head. Raises Refusal otherwise.
    """
    if len(stages) != len(exits) or not stages:
        got = f"{len(stages)} stages, {len(exits)} exits"
        raise Refusal("exit_costs", "a stage for every exit", got, "join layers between two exits into one stage")
    return tuple(accumulate(stage + leaving for stage, leaving in zip(stages, exits, strict=True)))


def threshold_at(scores: Float[Tensor, "B X"], costs: Sequence[float | int], budget: float | int) -> float:
    """The largest threshold at which these inputs cost no more than ``budget`` on average; 0 where none does.

    Labels are not asked for: a budget can be kept on any inputs. The cost only rises with the threshold.
    """
    price = torch.tensor(costs, dtype=torch.float64)
    tried = torch.cat([scores.new_tensor([0.0]), scores.flatten(), scores.new_tensor([1.0])]).unique().clamp(0, 1)
    low, high = 0, len(tried) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if float(price[first_exit(scores, float(tried[middle]))].mean()) <= budget + 1e-9:
            low = middle
        else:
            high = middle - 1
    return float(tried[low])


__all__ = [
    "EVIDENCE",
    "ExitRule",
    "ExitSpec",
    "Exits",
    "evidence",
    "exit_costs",
    "exit_probabilities",
    "first_exit",
    "stopping",
    "threshold_at",
]
