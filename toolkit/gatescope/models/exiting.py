"""A classifier that can be left early: a frozen backbone and its intermediate exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gatescope.layers.exits import ExitRule, Exits, ExitSpec, exit_costs, first_exit, stopping
from gatescope.models.classifier import Classifier


@dataclass(frozen=True, slots=True)
class Left:
    """Predictions of inputs that left where a rule let them.

    logits  over their temperature, where the rule has one
    exit    where an input left, 0 the first
    """

    logits: Float[Tensor, "B C"]
    exit: Int[Tensor, " B"]


class ExitingClassifier(nn.Module):
    """Exits after every hidden layer of a `Classifier`; the exit after the last is the backbone's own.

    The backbone is kept and frozen: only exits and gates are trained. Weights are drawn from ``init_seed`` alone.
    """

    tap_sites = Classifier.tap_sites

    def __init__(self, backbone: Classifier, *, init_seed: int = 0) -> None:
        super().__init__()
        self.config = backbone.config
        self.backbone = backbone.requires_grad_(False)
        spec = ExitSpec(widths=backbone.config.hidden[:-1], classes=backbone.config.classes)
        self.exits = Exits(spec, generator=torch.Generator().manual_seed(init_seed))

    def forward(self, inputs: Float[Tensor, B * shape]) -> Float[Tensor, "B Y C"]:
        """What every exit says, the last one too."""
        x, features = self.backbone.enter(inputs), []
        for place in range(len(self.config.hidden)):
            x = self.backbone.stage(place, x)
            features.append(x[:, 0])
        return torch.cat([self.exits.logits(features[:-1]), self.backbone.readout(x)[:, None]], dim=1)

    @property
    def costs(self) -> tuple[float | int, ...]:
        """Operations of leaving at every exit, an input: 2 m n k a matrix product, nothing else counted."""
        sizes = self.config.sizes
        stages = [2 * d_in * d_out for d_in, d_out in pairwise(sizes)]
        return exit_costs(stages[:-1], [*self.exits.flops(), stages[-1]])

    def leave(self, logits: Float[Tensor, "B Y C"], rule: ExitRule) -> Left:
        """Who leaves where, and with which prediction, when all exits have been computed."""
        left = first_exit(rule.scores(self.exits, logits[:, :-1]), rule.threshold)
        return Left(rule.cooled(logits)[torch.arange(len(logits)), left], left)

    @torch.no_grad()
    def run(self, inputs: Float[Tensor, B * shape], rule: ExitRule) -> Left:
        """Inference that stops: a stage is computed for those inputs alone that have not left before it."""
        x, last = self.backbone.enter(inputs), len(self.exits.heads)
        found = torch.empty(len(x), self.config.classes, dtype=x.dtype)
        left, here = torch.full((len(x),), last), torch.arange(len(x))
        asked = x.new_empty(len(x), 0)
        for place, head in enumerate(self.exits.heads):
            x = self.backbone.stage(place, x)
            logits = head(x[:, 0])
            if rule.score == "gate":
                asked = torch.cat([asked, self.exits.gate_logit(place, logits)], dim=1)
                score = stopping(asked)[:, -1]
            else:
                score = rule.cooled_at(place, logits).softmax(-1).amax(-1)
            leaves = score > rule.threshold
            found[here[leaves]] = rule.cooled_at(place, logits[leaves])
            left[here[leaves]] = place
            here, x, asked = here[~leaves], x[~leaves], asked[~leaves]
            if not len(here):
                return Left(found, left)
        x = self.backbone.stage(last, x)
        found[here] = rule.cooled_at(last, self.backbone.readout(x))
        return Left(found, left)


def mean_cost(left: Left, costs: Sequence[float | int]) -> float:
    """What these inputs cost on average, in the unit of ``costs``."""
    return float(torch.tensor(costs, dtype=torch.float64)[left.exit].mean())


__all__ = ["ExitingClassifier", "Left", "mean_cost"]
