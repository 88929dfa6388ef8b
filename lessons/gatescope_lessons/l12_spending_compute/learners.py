"""A trained language model whose MLPs become adaptive: distilled, gated, and held to a budget."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.checkpoints import load_model
from gatescope.layers.adaptive import (
    ACM,
    ACMSpec,
    BudgetSpec,
    budget_loss,
    fewest_learners,
    partial_errors,
    shares,
)
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM, next_token_nll
from gatescope.records import Quantity
from gatescope.surgery.acmize import Edit, acmize, gate_choices, mlp_pairs, modules, with_spec
from gatescope.tasks.text import BYTE_VOCAB, TEXTS, Bytes, byte_crops
from gatescope.train import Training, TrainSpec
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

TASK = Bytes()
#: A byte model of two blocks.
CONFIG = LMConfig(BYTE_VOCAB, 64, 2, AttentionSpec(2, 2, 32), MLPSpec("gelu", 256))
LM_STEPS = 600
#: Sixteen learners of 16 channels: together as wide as the MLP of 256 that they replace.
SPEC = ACMSpec(learners=16, hidden=16, init_std=0.1)
#: One more learner is worth it while it takes this much off the error of distillation.
FACTOR = 1.2
#: A token has what it needs when the error is below this share of what no learner leaves.
ENOUGH = 0.1
BUDGETS = (0.0625, 0.125, 0.25)
#: Texts that the model is judged by; it was trained on others.
_READ = ("story", "prose", "letter", "recipe")
ALLOCATIONS = ("gate", "same for all", "gate, shuffled")
DISTIL_STEPS, GATE_STEPS, TUNE_STEPS = 300, 100, 150

_SOURCE = "Wójcik et al. 2023 (arXiv 2312.10193)"
_NLL = Quantity(
    "acm_nll",
    ("variant", "budget"),
    "nats",
    "loss of the adaptive model",
    "-log p(next token), mean over held-out tokens",
    _SOURCE,
    "uniform guessing: log 257",
)
_SHARE = Quantity(
    "acm_share",
    ("variant", "budget"),
    "1",
    "learners that ran, as a share of all",
    "mean over tokens and layers of c / N",
    _SOURCE,
    "the budget asked for",
)
_DENSE = Quantity(
    "dense_nll",
    ("setting",),
    "nats",
    "loss of the model with its own MLPs",
    "-log p(next token), mean over held-out tokens",
    _SOURCE,
    "uniform guessing: log 257",
)
_NEEDED = Quantity(
    "needed",
    ("layer", "learner"),
    "1",
    "share of tokens that need so many learners",
    f"smallest c with err_c <= {ENOUGH:g} err_0, N where there is none",
    _SOURCE,
    "all alike: 1 at one number",
)
_DIFFICULTY = Quantity(
    "difficulty",
    ("budget",),
    "1",
    "rank correlation of a token's learners with its loss",
    "Spearman's rho of learners run, summed over layers, and -log p of the dense model",
    _SOURCE,
    "learners by lot: 0",
)


def training(seed: int) -> Training:
    """A training of the byte model, not started."""
    return Training(CONFIG, TASK, TrainSpec(steps=LM_STEPS, batch=16, lr=4e-3, warmup=30, decay_share=0.3, seed=seed))


def checkpoint(seed: int) -> str:
    """Name in data/ of a trained model."""
    return f"checkpoints/l12/bytes-s{seed}.safetensors"


def dense_model(seed: int) -> TinyLM:
    """A trained byte model from data/, its digest checked. Raises DataError when the file is missing or changed."""
    return load_model(data.path(checkpoint(seed))).eval()


def held_out(size: int = 64) -> Int[Tensor, "B T"]:
    """Crops of four texts that no run was trained on; always the same."""
    return byte_crops("\n".join(TEXTS[name].text for name in _READ), size, TASK.length, seed=12)


@dataclass(frozen=True)
class Distillation:
    """Phase 1 and 2: learners, or their gates, from what the dense MLPs read and give, module by module.

    dense  the model whose MLPs are replaced
    phase  "learners", or "gates", which learn the label of `fewest_learners`
    """

    dense: TinyLM
    phase: Literal["learners", "gates"] = "learners"

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        """Sequences; they have no labels, so they come twice."""
        tokens = TASK.batch(seed, size)[0]
        return tokens, tokens

    def nll(self, model: TinyLM, inputs: Tensor, labels: Tensor) -> Float[Tensor, " B"]:
        """The loss of every sequence, summed over modules."""
        pairs = mlp_pairs(self.dense, inputs)
        return torch.stack(
            [self._loss(module, x, y) for module, (x, y) in zip(modules(model).values(), pairs, strict=True)]
        ).sum(0)

    def _loss(self, module: ACM, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"]) -> Float[Tensor, " B"]:
        if self.phase == "learners":
            return partial_errors(module.partial(x), y).mean((1, 2)) / y.square().mean()
        with torch.no_grad():
            wanted = fewest_learners(partial_errors(module.partial(x), y), FACTOR)
        logits = module.gate_logits(x)
        return functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").mean(1)


@dataclass(frozen=True)
class Tuning:
    """Phase 3: the whole model on its task, its gates held to a budget; without a budget, the task alone."""

    budget: BudgetSpec | None = None

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        """Sequences, twice."""
        tokens = TASK.batch(seed, size)[0]
        return tokens, tokens

    def nll(self, model: TinyLM, inputs: Tensor, labels: Tensor) -> Float[Tensor, " B"]:
        """The loss of every sequence, and what the gates owe."""
        if self.budget is None:
            return next_token_nll(model, inputs).mean(1)
        with gate_choices(model) as chosen:
            nll = next_token_nll(model, inputs).mean(1)
        return nll + budget_loss(chosen, self.budget)


def spec(seed: int, steps: int, lr: float) -> TrainSpec:
    """Adam on 16 sequences a step, the last fifth of the steps falling to 0."""
    return TrainSpec(steps=steps, batch=16, lr=lr, warmup=0, seed=seed)


def distilled(dense: TinyLM, seed: int, steps: tuple[int, int] = (DISTIL_STEPS, GATE_STEPS)) -> TinyLM:
    """Learners that stand for the MLPs of ``dense``, gates that have learnt which of them are worth it."""
    model = acmize(dense, SPEC, seed=seed)
    Training(model, Distillation(dense), spec(seed + 3_000, steps[0], 5e-3)).run(progress=False)
    for module in modules(model).values():
        module.up.requires_grad_(False)
        module.down.requires_grad_(False)
    Training(model, Distillation(dense, "gates"), spec(seed + 4_000, steps[1], 1e-2)).run(progress=False)
    return model.requires_grad_(True)


def tuned(model: TinyLM, seed: int, budget: float, allocation: str = ALLOCATIONS[0], steps: int = TUNE_STEPS) -> TinyLM:
    """A copy of a distilled model, trained on with gates at a budget, or with the same number of learners for all."""
    if allocation == ALLOCATIONS[1]:
        count = round(budget * SPEC.learners)
        copy, work = with_spec(model, replace(SPEC, count=count)), Tuning()
    else:
        copy, work = with_spec(model, SPEC), Tuning(BudgetSpec(budget=budget))
    Training(copy.train(), work, spec(seed + 5_000, steps, 1e-3)).run(progress=False)
    return copy.eval()


def tuned_dense(dense: TinyLM, seed: int, steps: int = TUNE_STEPS) -> TinyLM:
    """The dense model, trained on as long and on the same sequences: what no budget would have given."""
    copy = deepcopy(dense).requires_grad_(True)
    Training(copy.train(), Tuning(), spec(seed + 5_000, steps, 1e-3)).run(progress=False)
    return copy.eval()


@dataclass(frozen=True)
class Ran:
    """A pass over held-out tokens.

    nll     of every token but the first                     [B T-1]
    counts  learners that every token ran, layer by layer    [L B T]
    """

    nll: Float[Tensor, "B before"]
    counts: Int[Tensor, "L B T"]

    @property
    def share(self) -> float:
        """Of all learners, those that ran."""
        return float(self.counts.double().mean()) / SPEC.learners


@torch.no_grad()
def ran(model: TinyLM, tokens: Int[Tensor, "B T"], edit: Edit | None = None) -> Ran:
    """Run an adaptive model and keep what its gates chose; ``edit`` may change it."""
    with gate_choices(model, edit) as chosen:
        nll = next_token_nll(model, tokens)
    return Ran(nll, torch.stack([(shares(choice) * SPEC.learners).round().long() for choice in chosen]))


def shuffled(seed: int) -> Edit:
    """An edit that deals the choices of a layer out to other tokens: as many learners run, but not where chosen."""
    generator = torch.Generator().manual_seed(seed)

    def deal(module: ACM, x: Tensor, choice: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        order = torch.randperm(choice.shape[0] * choice.shape[1], generator=generator)
        return choice.flatten(0, 1)[order].view_as(choice)

    return deal


@torch.no_grad()
def needed(model: TinyLM, dense: TinyLM, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "L n"]:
    """How many learners come within `ENOUGH` of the dense MLP, token by token, N where none does."""
    found = []
    for module, (x, y) in zip(modules(model).values(), mlp_pairs(dense, tokens), strict=True):
        errors = partial_errors(module.partial(x), y).flatten(0, 1)
        near = errors <= ENOUGH * errors[:, :1]
        near[:, -1] = True
        found.append((~near).long().cumprod(-1).sum(-1))
    return torch.stack(found)


def measure_learners(
    seed: int,
    budgets: Sequence[float] = BUDGETS,
    steps: tuple[int, int, int] = (DISTIL_STEPS, GATE_STEPS, TUNE_STEPS),
    size: int = 64,
) -> xr.Dataset:
    """All allocations of one seed along ``budget``, the dense model, and what tokens need."""
    tokens, dense = held_out(size), dense_model(seed)
    start, longer = distilled(dense, seed, steps[:2]), tuned_dense(dense, seed, steps[2])
    with torch.no_grad():
        before, after = next_token_nll(dense, tokens), next_token_nll(longer, tokens)
    rows: dict[str, list[Ran]] = {name: [] for name in ALLOCATIONS}
    for budget in budgets:
        gated = tuned(start, seed, budget, steps=steps[2])
        fixed = tuned(start, seed, budget, ALLOCATIONS[1], steps[2])
        for name, found in zip(
            ALLOCATIONS, (ran(gated, tokens), ran(fixed, tokens), ran(gated, tokens, shuffled(seed))), strict=True
        ):
            rows[name].append(found)
    counts = needed(start, dense, tokens)
    histogram = np.array([np.bincount(own, minlength=SPEC.learners + 1) / len(own) for own in counts.numpy()])
    coords = {
        "variant": list(ALLOCATIONS),
        "budget": list(budgets),
        "setting": ["as it came", "trained on"],
        "learner": list(range(SPEC.learners + 1)),
    }
    guess = float(np.log(BYTE_VOCAB))
    nll = [[float(one.nll.mean()) for one in rows[name]] for name in ALLOCATIONS]
    return records.new(
        {
            "acm_nll": _NLL.variable(nll, coords, baseline_value=guess),
            "acm_share": _SHARE.variable([[one.share for one in rows[name]] for name in ALLOCATIONS], coords),
            "dense_nll": _DENSE.variable([float(before.mean()), float(after.mean())], coords, baseline_value=guess),
            "needed": _NEEDED.variable(histogram, coords),
            "difficulty": _DIFFICULTY.variable([_rank(one, before) for one in rows[ALLOCATIONS[0]]], coords),
        }
    )


def _rank(found: Ran, loss: Float[Tensor, "B before"]) -> float:
    learners = found.counts.sum(0)[:, :-1].flatten().numpy()
    return float(spearmanr(learners, loss.flatten().numpy()).statistic) if len(np.unique(learners)) > 1 else 0.0
