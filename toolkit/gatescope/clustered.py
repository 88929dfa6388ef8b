"""Experts trained on clusters of inputs: a run that can be left and gone on with, its rule and k changed on the way,
and what held-out samples say of it. Lesson 08 shows such runs, the study `experts` measures them over a grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import xarray as xr
from torch import Tensor

from gatescope import records
from gatescope.errors import NonFiniteError, Refusal
from gatescope.layers import Balancer, DenseToSparse, MoESpec
from gatescope.layers.balancing import Rule
from gatescope.models.routed import RoutedRegressor
from gatescope.probes import Routing, specialisation
from gatescope.recorder import measure
from gatescope.records import Quantity
from gatescope.surgery import diversify
from gatescope.taps import attached
from gatescope.tasks import GaussianClusters
from gatescope.train import Progress

TASK = GaussianClusters(separation=2.0)
EXPERTS, HIDDEN, STEPS, BATCH, LR = 8, 16, 1500, 256, 3e-3
HELD_OUT = 2048
_INIT_STD = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train the experts.

    k           experts a token visits; with a gate, the fewest
    rule        what keeps the load even, if anything
    gate        a dense-to-sparse gate in place of top-k
    base_steps  steps spent on one shared expert first; they count as steps of the run
    masked      share of the shared expert's weights that each copy forgets
    experts     how many there are
    hidden      channels inside one expert
    """

    k: int = 1
    rule: Rule = None
    gate: DenseToSparse | None = None
    base_steps: int = 0
    masked: float = 0.5
    experts: int = EXPERTS
    hidden: int = HIDDEN

    def spec(self) -> MoESpec:
        """The layer of experts. Without a gate it has a selection bias, zeros unless a rule moves it."""
        return MoESpec(
            self.experts,
            self.k,
            self.hidden,
            renormalise=False,
            balancing=None if self.gate else "bias",
            gate=self.gate,
            init_std=_INIT_STD,
        )


class ClusterTraining:
    """A run as an iterable of `Progress`: leave it, look, and iterate again to go on.

    rule, k  may be changed between two steps (k and rules that move a bias only without a dense-to-sparse gate)
    every    steps between looks at held-out samples; 0 for none

    The batch of step n depends on (seed, n) alone. Raises NonFiniteError when the loss is lost.
    """

    def __init__(
        self, recipe: Recipe, seed: int = 0, *, steps: int = STEPS, every: int = 75, task: GaussianClusters = TASK
    ) -> None:
        if recipe.base_steps >= steps:
            got = f"{recipe.base_steps} of {steps}"
            raise Refusal("ClusterTraining", "base_steps below steps", got, "train longer, or share for fewer steps")
        self.recipe, self.seed, self.steps, self.every, self.task = recipe, seed, steps, every, task
        self.rule = recipe.rule
        self.step = 0
        self.losses: list[float] = []
        self.looks: dict[int, xr.Dataset] = {}
        spec = replace(recipe.spec(), experts=1, k=1, gate=None) if recipe.base_steps else recipe.spec()
        self._take(RoutedRegressor(spec, task.dim, init_seed=seed))

    @property
    def k(self) -> int:
        """Experts a token visits."""
        return self.model.experts.spec.k

    @k.setter
    def k(self, k: int) -> None:
        if self.model.experts.spec.experts > 1:
            self.model.experts.spec = replace(self.model.experts.spec, k=k)

    def __iter__(self) -> Iterator[Progress]:
        if self.step == 0 and self.every and not self.looks:
            self._look()
        while self.step < self.steps:
            yield self._advance()

    def run(self) -> ClusterTraining:
        """Train to the end. Returns itself."""
        for _ in self:
            pass
        return self

    @property
    def record(self) -> xr.Dataset:
        """What was seen of held-out samples so far, along ``step``; see `look`."""
        looks = dict(self.looks)  # a thread that trains may add one meanwhile
        return records.concat(list(looks.values()), "step", list(looks))

    def _take(self, model: RoutedRegressor) -> None:
        self.model = model
        self._optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
        self._balancer = Balancer(model, None)

    def _split(self) -> None:
        generator = torch.Generator().manual_seed(7919 + self.seed)
        spec = self.recipe.spec()
        layer = diversify(self.model.experts, spec, masked=self.recipe.masked, generator=generator)
        self._take(RoutedRegressor(spec, self.task.dim, layer=layer))

    def _advance(self) -> Progress:
        if self.step == self.recipe.base_steps > 0:
            self._split()
        model, shared = self.model, self.step < self.recipe.base_steps
        if model.experts.spec.gate is not None:
            model.experts.anneal(self.step - self.recipe.base_steps, self.seed)
        self._balancer.rule = None if shared else self.rule
        x, y, _ = self.task.batch((self.seed, self.step), BATCH)
        with attached(model, self._balancer) if not shared else nullcontext():
            loss = (model.train()(x) - y).square().mean()
            total = loss if shared else loss + self._balancer.loss()
        if not total.isfinite():
            raise NonFiniteError(
                "ClusterTraining", f"a finite loss at step {self.step}", "NaN", "reset and start again"
            )
        self._optimizer.zero_grad()
        total.backward()
        self._optimizer.step()
        self._balancer.step()
        self.step += 1
        self.losses.append(loss.item())
        due = self.every and (self.step % self.every == 0 or self.step == self.steps)
        return Progress(self.step, self.losses[-1], None, LR, self._look() if due else None)

    def _look(self) -> xr.Dataset:
        self.looks[self.step] = look(self.model, self.task)
        return self.looks[self.step]


def _measured(name: str, units: str, long_name: str, formula: str, baseline: str) -> Quantity:
    return Quantity(name, (), units, long_name, formula, "measured on held-out samples", baseline)


_ERROR = _measured("error", "1", "error on held-out samples", "mean |y' - y|^2 / var(y)", "always the mean of y: 1")
_SPREAD = _measured("experts_spread", "experts", "spread over tokens of the experts visited",
                    "standard deviation over tokens of the number of choices with weight > 0",
                    "a router of fixed k: 0")  # fmt: skip
#: What `look` takes from the probe.
_ROUTED = (
    "expert_load",
    "experts_dead",
    "load_violation",
    "load_cv",
    "router_entropy",
    "experts_visited",
)
_ABOUT = {"n": HELD_OUT, "note": f"{HELD_OUT:,} held-out samples"}


def held_out(task: GaussianClusters = TASK) -> tuple[Tensor, Tensor, Tensor]:
    """Samples that no run was trained on: training batches are drawn from (seed, step), these from one number."""
    return task.batch(20261130, HELD_OUT)


def look(model: RoutedRegressor, task: GaussianClusters = TASK) -> xr.Dataset:
    """Error, routing and specialisation on held-out samples. A single expert has an error and nothing else."""
    x, y, cluster = held_out(task)
    if model.experts.spec.experts == 1:
        with torch.no_grad():
            return records.new({"error": _error(model(x), y)}, **_ABOUT)
    outputs: list[Tensor] = []
    record = measure(model, [Routing(keep=True)], lambda model: outputs.append(model(x)))
    groups = specialisation(record, cluster.numpy(), [str(number + 1) for number in range(task.clusters)])
    spread = _SPREAD.variable(float((record.token_weight.values[0] > 0).sum(-1).std()))
    routed = {name: record[name] for name in _ROUTED} | {str(name): own for name, own in groups.data_vars.items()}
    return records.new({"error": _error(outputs[0], y), **routed, "experts_spread": spread}, **_ABOUT)


def _error(found: Tensor, y: Tensor) -> xr.DataArray:
    return _ERROR.variable(float((found - y).square().mean() / y.var()), baseline_value=1.0)
