"""What the panels of lesson 12 compute while the learner waits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.layers.adaptive import ACM, one_hot
from gatescope.layers.exits import ExitRule
from gatescope.models import next_token_nll
from gatescope.models.exiting import ExitingClassifier, Left, mean_cost
from gatescope.records import Quantity
from gatescope.surgery.acmize import Edit, modules
from gatescope.tasks.text import BYTE_BOS
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_lessons.l12_spending_compute import learners, leaving
from gatescope_lessons.l12_spending_compute.learners import ALLOCATIONS, SPEC, Ran, ran
from gatescope_lessons.l12_spending_compute.leaving import EXITS, METHODS, held_out, sure

#: Images drawn of every exit.
_DRAWN = 2
#: Steps of the three phases that a learner waits for: fewer than the record has.
LIVE_STEPS = (100, 40, 40)
_IMAGE = Quantity(
    "state_image", ("picture", "pixel"), "1", "ink", "grey value of the pixel", "scikit-learn digits", "see the digits"
)
_LEARNERS = Quantity(
    "learners",
    ("token",),
    "1",
    "learners that a token runs",
    "c",
    "Wójcik et al. 2023",
    f"the budget times {SPEC.learners}",
)


class Reader:
    """Four exits of a network that reads noisy digits, and the gates trained for them so far."""

    def __init__(self, seed: int = 0, steps: tuple[int, int, int] | None = None) -> None:
        self.steps = steps or (leaving.BACKBONE_STEPS, leaving.WARM_STEPS, leaving.STEPS)
        self.seed, self.test = seed, held_out(seed, "test", copies=1)
        self.warm = leaving.warmed(seed, leaving.trained_backbone(seed, self.steps[0]), self.steps[1])
        self._trained: dict[tuple[float, str], ExitingClassifier] = {}
        self._temperatures: dict[float, tuple[float, ...]] = {}

    def model(self, trade: float, modules: str) -> ExitingClassifier:
        """Exits and gates trained at a price, now if they have not been."""
        if (trade, modules) not in self._trained:
            self._trained[trade, modules] = leaving.trained(self.warm, self.seed, trade, modules, self.steps[2])
        return self._trained[trade, modules]

    def decider(self, who: str, trade: float) -> tuple[ExitingClassifier, ExitRule]:
        """The model of a row of METHODS and its rule, whose threshold is yet to be set. Raises Refusal for another."""
        if who not in METHODS:
            raise Refusal("Reader", f"one of {METHODS}", repr(who), "choose one of them")
        model = self.model(trade, "joint" if who == METHODS[0] else "alike")
        if who in METHODS[:2]:
            return model, ExitRule()
        if who == METHODS[2]:
            return model, ExitRule(score="confidence")
        if trade not in self._temperatures:
            self._temperatures[trade] = leaving.temperatures(model, held_out(self.seed, "validation"))
        return model, ExitRule(score="confidence", temperatures=self._temperatures[trade])


def left_now(reader: Reader, who: str, budget: float, trade: float) -> tuple[xr.Dataset, pd.DataFrame]:
    """Who leaves where when reading may cost ``budget`` of the whole network on average: some of them as images, and a
    row an exit. In the attributes of the record: accuracy, ece, cost, threshold, cheapest."""
    model, rule = reader.decider(who, trade)
    left, held = leaving.at_budget(model, reader.test.images, rule, budget * model.costs[-1])
    found = leaving.outcome(model, reader.test, left, held)
    confidence, correct = sure(left, reader.test.labels)
    rows = []
    for place in range(EXITS):
        here = left.exit == place
        some = bool(here.any())
        rows.append(
            {
                "exit": place + 1,
                "cost": model.costs[place] / model.costs[-1],
                "leave here": float(here.double().mean()),
                "accuracy": float(correct[here].double().mean()) if some else float("nan"),
                "confidence": float(confidence[here].double().mean()) if some else float("nan"),
            }
        )
    frame = pd.DataFrame(rows)
    shares = ", ".join(f"{row['leave here']:.0%} at exit {row['exit']}" for row in rows)
    record = records.new(
        {"state_image": _gallery(reader, left)},
        finding=f"Who leaves where: {shares}",
        note=f"{len(confidence)} noisy digits, decided by {who}",
        accuracy=found.accuracy,
        ece=found.ece,
        cost=mean_cost(left, model.costs) / model.costs[-1],
        threshold=held.threshold,
        cheapest=model.costs[0] / model.costs[-1],
    )
    return record, frame


def _gallery(reader: Reader, left: Left) -> xr.DataArray:
    images, names, said = [], [], left.logits.argmax(-1)
    for place in range(EXITS):
        for index in (left.exit == place).nonzero()[:_DRAWN, 0].tolist():
            images.append(reader.test.images[index].flatten().clamp(0, 1).numpy())
            names.append(f"exit {place + 1}, #{index}:\na {int(reader.test.labels[index])} read as {int(said[index])}")
    return _IMAGE.variable(np.stack(images), {"picture": names})


class Adaptive:
    """A byte model with learners for MLPs, its gates held to an eighth; and text that it has not seen."""

    def __init__(self, seed: int = 0, steps: tuple[int, int, int] | None = None, size: int = 32) -> None:
        steps = steps or LIVE_STEPS
        self.dense = learners.dense_model(seed)
        self.model = learners.tuned(learners.distilled(self.dense, seed, steps[:2]), seed, 0.125, steps=steps[2])
        self.tokens = learners.held_out(size)
        with torch.no_grad():
            self.dense_nll = float(next_token_nll(self.dense, self.tokens).mean())

    def run(self, allocation: str, budget: float, tilt: float) -> Ran:
        """Run under a row of ALLOCATIONS; the gates are tilted, see `tilt_for`. Raises Refusal for another."""
        if allocation not in ALLOCATIONS:
            raise Refusal("Adaptive", f"an allocation of {ALLOCATIONS}", repr(allocation), "choose one of them")
        if allocation == ALLOCATIONS[1]:
            return ran(self.model, self.tokens, same(round(budget * SPEC.learners)))
        deal = learners.shuffled(0) if allocation == ALLOCATIONS[2] else None
        return ran(self.model, self.tokens, tilted(tilt, deal))

    def tilt_for(self, budget: float, rounds: int = 12) -> float:
        """What to add to the gates' logits for every further learner so that ``budget`` of them run: by halving."""
        low, high = -20.0, 20.0
        if budget in (0.0, 1.0):
            return 1e4 * (2 * budget - 1)
        for _ in range(rounds):
            middle = (low + high) / 2
            low, high = (middle, high) if self.run(ALLOCATIONS[0], budget, middle).share < budget else (low, middle)
        return (low + high) / 2


def tilted(tilt: float, then: Edit | None = None) -> Edit:
    """An edit that lets gates favour many learners, or few: the largest logit + tilt c."""

    def edit(module: ACM, x: Tensor, choice: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        logits = module.gate_logits(x)
        more = tilt * torch.arange(logits.shape[-1])
        choice = one_hot((logits + more).argmax(-1), choice)
        return choice if then is None else then(module, x, choice)

    return edit


def same(count: int) -> Edit:
    """An edit that gives every token ``count`` learners."""

    def edit(module: ACM, x: Tensor, choice: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return one_hot(torch.full(choice.shape[:-1], count), choice)

    return edit


def spelt(tokens: Int[Tensor, " T"]) -> list[str]:
    """A text piece a byte."""
    shown = {BYTE_BOS: "^", ord("\n"): "⏎"}
    return [shown.get(token, chr(token)) for token in tokens.tolist()]


def spent_now(
    adaptive: Adaptive, budget: float, drawn: str, layer: int, sequence: int
) -> tuple[xr.Dataset, pd.DataFrame]:
    """All allocations at one budget, a row each, and the learners of one sequence under the one that is drawn."""
    tilt = adaptive.tilt_for(budget)
    found = {name: adaptive.run(name, budget, tilt) for name in ALLOCATIONS}
    module = modules(adaptive.model)[layer]
    width = 4 * adaptive.model.config.d_model * SPEC.learners * SPEC.hidden
    rows = []
    for name, one in found.items():
        gate = float(module.flops(torch.tensor(0))) if name != ALLOCATIONS[1] else 0.0
        rows.append((name, float(one.nll.mean()), one.share, one.share + gate / width))
    rows.append(("the dense model", adaptive.dense_nll, 1.0, 1.0))
    counts = found[drawn].counts[layer, sequence]
    strip = _LEARNERS.variable(counts.double().numpy())
    strip = strip.assign_coords(piece=("token", spelt(adaptive.tokens[sequence])))
    record = records.new({"learners": strip}, note=f"layer {layer}, {drawn}; ^ begins a crop, ⏎ ends a line")
    return record, pd.DataFrame(rows, columns=["allocation", "loss, nats", "learners", "operations"])


__all__ = ["Adaptive", "Reader", "left_now", "same", "spent_now", "tilted"]
