"""Digits with noise, a network with four exits, and the ways to decide who leaves where."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.calibration import expected_calibration_error, fit_temperature, overconfidence
from gatescope.layers.exit_objective import JointObjective, uniform_loss
from gatescope.layers.exits import ExitRule, threshold_at
from gatescope.models import Classifier, ClassifierConfig
from gatescope.models.exiting import ExitingClassifier, Left, mean_cost
from gatescope.records import Quantity
from gatescope.tasks import Digits
from gatescope.train import Training, TrainSpec
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Narrow first, wide last: to read on to the end costs 28 times what the first exit costs.
BACKBONE = ClassifierConfig(hidden=(8, 16, 64, 192))
EXITS = len(BACKBONE.hidden)
#: Standard deviation of the noise on pixels from 0 to 1; clean digits are so easy that nobody has to read on.
NOISE = 0.2
#: Images not trained on: the first half for temperatures, the second half for everything that is reported.
HELD_OUT = 720
#: Noisy copies of every image in an evaluation.
COPIES = 4
BACKBONE_STEPS, WARM_STEPS, STEPS = 800, 300, 500
#: Prices of the whole network, in nats of loss.
TRADES = (0.03, 0.3, 3.0)
#: Who decides, and what the exits were trained for.
METHODS = ("joint gates", "gates apart", "confidence", "confidence, cooled")

_SOURCE = "Regol et al. 2023 (arXiv 2310.09163)"
_AXES = ("variant", "trade")
_ACCURACY = Quantity(
    "exit_accuracy", _AXES, "1", "accuracy at this cost", "share of inputs read right where they left", _SOURCE, "0.1"
)
_ECE = Quantity(
    "exit_ece",
    _AXES,
    "1",
    "expected calibration error at this cost",
    "sum over 15 bins of n_b / n |accuracy - confidence|",
    "Guo et al. 2017 (arXiv 1706.04599)",
    "confidence that is always true: 0, and more on a finite sample",
)
_COST = Quantity(
    "exit_cost",
    _AXES,
    "1",
    "operations, as a share of the whole network with all exits",
    "mean over inputs of cost_l / cost_Y, matrix products only",
    "models.exiting",
    "nobody leaves early: 1",
)
_BIAS = Quantity(
    "early_bias",
    _AXES,
    "1",
    "overconfidence of those that leave early, beyond that of all at the same exits",
    "mean(confidence - correct) of leavers - the same of all inputs at these exits, weighted by leavers",
    _SOURCE,
    "leaving by lot: 0",
)
_AT_EXIT = Quantity(
    "accuracy_at", ("exit",), "1", "accuracy when all leave here", "share of inputs read right", _SOURCE, "0.1"
)
_PRICE = Quantity(
    "cost_at", ("exit",), "1", "cost of leaving here", "cost_l / cost_Y", "models.exiting", "the last exit: 1"
)


def task(seed: int) -> Digits:
    """The noisy digits of a seed: another split for every seed."""
    return Digits(split_seed=seed, held_out=HELD_OUT, noise=NOISE)


@dataclass(frozen=True)
class ExitTask:
    """What exits are trained on.

    digits     images and labels
    objective  of the gates; None trains no gates
    modules    whose losses the inference modules get: "joint", weighted by who will leave there, or "alike"
    """

    digits: Digits
    objective: JointObjective | None = None
    modules: Literal["joint", "alike"] = "alike"

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Tensor, Int[Tensor, " B"]]:
        """Training images and labels, the same for the same seed."""
        return self.digits.batch(seed, size)

    def nll(self, model: ExitingClassifier, inputs: Tensor, labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The loss of every input, nats."""
        logits = model(inputs)
        alike = uniform_loss(logits, labels)
        if self.objective is None:
            return alike
        gates, joint = self.objective.losses(logits, model.exits.gate_logits(logits[:, :-1]), labels)
        return gates + (joint if self.modules == "joint" else alike)


def spec(seed: int, steps: int, lr: float = 3e-3) -> TrainSpec:
    """Adam on batches of 64, without warm-up, the last fifth of the steps falling to 0."""
    return TrainSpec(steps=steps, batch=64, lr=lr, betas=(0.9, 0.999), clip=1e3, warmup=0, seed=seed)


def trained_backbone(seed: int, steps: int = BACKBONE_STEPS) -> Classifier:
    """The network whose exits are to be taken; it does not change afterwards."""
    model = Classifier(BACKBONE, init_seed=seed)
    Training(model, task(seed), spec(seed, steps)).run(progress=False)
    return model


def warmed(seed: int, backbone: Classifier, steps: int = WARM_STEPS) -> ExitingClassifier:
    """Exits that all learnt alike, gates that have learnt nothing: where every method starts."""
    model = ExitingClassifier(backbone, init_seed=seed)
    Training(model, ExitTask(task(seed)), spec(seed + 1_000, steps, lr=1e-2)).run(progress=False)
    return model


def trained(warm: ExitingClassifier, seed: int, trade: float, modules: str, steps: int = STEPS) -> ExitingClassifier:
    """A copy of warm exits, trained on with gates: jointly, or exits alike and gates apart; the same batches for both.

    The exits of "alike" do not know of the gates: they are those of thresholded confidence, trained as long.
    """
    model = deepcopy(warm)
    objective = JointObjective(trade=trade, costs=model.costs)
    work = ExitTask(task(seed), objective, modules)  # type: ignore[arg-type]
    Training(model, work, spec(seed + 2_000, steps, lr=1e-2)).run(progress=False)
    return model


@dataclass(frozen=True)
class Part:
    """Noisy held-out images and their labels."""

    images: Float[Tensor, "n 8 8"]
    labels: Int[Tensor, " n"]


def held_out(seed: int, part: Literal["validation", "test"], copies: int = COPIES) -> Part:
    """Half of the held-out images, every one ``copies`` times under noise of its own; always the same for a seed."""
    clean = Digits(split_seed=seed, held_out=HELD_OUT).test
    half = slice(None, HELD_OUT // 2) if part == "validation" else slice(HELD_OUT // 2, None)
    images, labels = (values[half].repeat(copies, *[1] * (values.ndim - 1)) for values in clean)
    generator = torch.Generator().manual_seed(2 * seed + (part == "test"))
    return Part(images + NOISE * torch.randn(images.shape, generator=generator), labels)


@torch.no_grad()
def temperatures(model: ExitingClassifier, part: Part) -> tuple[float, ...]:
    """The temperature of every exit, fitted on validation images."""
    logits = model(part.images)
    return tuple(fit_temperature(logits[:, place], part.labels) for place in range(logits.shape[1]))


@torch.no_grad()
def at_budget(model: ExitingClassifier, images: Tensor, rule: ExitRule, budget: float) -> tuple[Left, ExitRule]:
    """Who leaves where under ``rule`` when its threshold is as high as ``budget`` (operations an input) allows."""
    logits = model(images)
    threshold = threshold_at(rule.scores(model.exits, logits[:, :-1]), model.costs, budget)
    held = ExitRule(score=rule.score, threshold=threshold, temperatures=rule.temperatures)
    return model.leave(logits, held), held


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a method did: see the quantities of the record of the same names."""

    accuracy: float
    ece: float
    cost: float
    bias: float


def sure(left: Left, labels: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """The confidence of every prediction, and whether it is right."""
    best = left.logits.softmax(-1).max(-1)
    return best.values, best.indices == labels


@torch.no_grad()
def outcome(model: ExitingClassifier, part: Part, left: Left, rule: ExitRule) -> Outcome:
    """Accuracy, calibration and cost of predictions, and the bias of those that left early."""
    confidence, correct = sure(left, part.labels)
    cost = mean_cost(left, model.costs) / model.costs[-1]
    every = rule.cooled(model(part.images)).softmax(-1).max(-1)
    right = every.indices == part.labels[:, None]
    beyond, leavers = 0.0, 0
    for place in range(EXITS - 1):
        here = left.exit == place
        if count := int(here.sum()):
            of_all = overconfidence(every.values[:, place], right[:, place])
            beyond += count * (overconfidence(confidence[here], correct[here]) - of_all)
            leavers += count
    accuracy = float(correct.double().mean())
    bias = beyond / leavers if leavers else 0.0
    return Outcome(accuracy, expected_calibration_error(confidence, correct), cost, bias)


def compared(warm: ExitingClassifier, seed: int, trade: float, steps: int = STEPS) -> dict[str, Outcome]:
    """Every method of METHODS on the test images. The joint gates leave above 1/2, and what that costs on average is
    the budget of all others."""
    joint, apart = (trained(warm, seed, trade, modules, steps) for modules in ("joint", "alike"))
    test, plain = held_out(seed, "test"), ExitRule(score="confidence")
    cooled = ExitRule(score="confidence", temperatures=temperatures(apart, held_out(seed, "validation")))
    with torch.no_grad():
        left = joint.leave(joint(test.images), ExitRule())
    budget = mean_cost(left, joint.costs)
    found = {METHODS[0]: outcome(joint, test, left, ExitRule())}
    for name, rule in zip(METHODS[1:], (ExitRule(), plain, cooled), strict=True):
        found[name] = outcome(apart, test, *at_budget(apart, test.images, rule, budget))
    return found


def measure_leaving(
    seed: int, trades: Sequence[float] = TRADES, steps: tuple[int, int, int] = (BACKBONE_STEPS, WARM_STEPS, STEPS)
) -> xr.Dataset:
    """All methods of one seed along ``trade``, and every exit alone."""
    warm = warmed(seed, trained_backbone(seed, steps[0]), steps[1])
    cells = [compared(warm, seed, trade, steps[2]) for trade in trades]
    coords = {"variant": list(METHODS), "trade": list(trades), "exit": list(range(EXITS))}

    def table(field: str) -> np.ndarray:
        return np.array([[getattr(cell[name], field) for cell in cells] for name in METHODS])

    test = held_out(seed, "test")
    with torch.no_grad():
        alone = (warm(test.images).argmax(-1) == test.labels[:, None]).double().mean(0)
    return records.new(
        {
            "exit_accuracy": _ACCURACY.variable(table("accuracy"), coords),
            "exit_ece": _ECE.variable(table("ece"), coords, baseline_value=0.0),
            "exit_cost": _COST.variable(table("cost"), coords, baseline_value=1.0),
            "early_bias": _BIAS.variable(table("bias"), coords, baseline_value=0.0),
            "accuracy_at": _AT_EXIT.variable(alone.numpy(), coords),
            "cost_at": _PRICE.variable(np.array(warm.costs) / warm.costs[-1], coords),
        }
    )
