"""Experts on clusters of inputs: how many, how many a token visits, and what keeps their load even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gatescope.errors import Refusal

if TYPE_CHECKING:
    import xarray as xr

Balancing = Literal["none", "loss", "bias"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsRun:
    """Experts and how they are trained; the axes of the study.

    experts    how many there are
    k          how many of them a token visits; all of them is the dense limit
    balancing  "loss": the auxiliary loss of Switch Transformers with weight 0.01; "bias": loss-free with rate 1e-3
    width      hidden channels of all experts together, so that each has width / experts of them and a token passes
               k * width / experts
    steps      of training, otherwise as `clustered.ClusterTraining`
    seed       initial weights and batches

    Raises Refusal for values outside these lists, a width that experts cannot share evenly, and balancing where every
    token visits every expert.
    """

    experts: int = 8
    k: int = 1
    balancing: Balancing = "none"
    width: int = 128
    steps: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.experts or self.experts < 2:
            got = f"experts={self.experts}, k={self.k}"
            raise Refusal("ExpertsRun", "two experts or more, and k among them", got, "lower k, or add experts")
        if self.width < self.experts or self.width % self.experts:
            got = f"width={self.width} over {self.experts} experts"
            raise Refusal("ExpertsRun", "a width that all experts share evenly", got, "use a multiple of experts")
        if self.k == self.experts and self.balancing != "none":
            got = f"balancing={self.balancing!r} with k={self.k} of {self.experts}"
            raise Refusal("ExpertsRun", "no balancing where every expert gets every token", got, "use 'none' there")
        if self.steps < 1:
            raise Refusal("ExpertsRun", "steps >= 1", str(self.steps), "train for at least one step")


def measure(run: ExpertsRun) -> xr.Dataset:
    """Train to the end and look at held-out samples: error, load, router and specialisation, as `clustered.look`.

    Raises NonFiniteError when training diverges.
    """
    from gatescope.clustered import ClusterTraining, Recipe, look
    from gatescope.layers import AuxiliaryLoss, BiasUpdate

    rule = {"none": None, "loss": AuxiliaryLoss(0.01), "bias": BiasUpdate(1e-3)}[run.balancing]
    recipe = Recipe(k=run.k, rule=rule, experts=run.experts, hidden=run.width // run.experts)
    training = ClusterTraining(recipe, run.seed, steps=run.steps, every=0).run()
    return look(training.model, training.task)


__all__ = ["ExpertsRun", "measure"]
