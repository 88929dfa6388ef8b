"""The search itself: operation weights learn from validation data, all other weights from training data, in turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gatescope.errors import NonFiniteError, Refusal
from gatescope.search.networks import STEM, Supernet
from gatescope.search.space import Architecture, SearchSpace
from gatescope.sparsifiers import SparseSpec, set_sparsity, to_sparse
from gatescope.train import LabelledTask


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """How a search goes.

    sparsity         share of the weights that every layer but the stem reads as 0; 0 is the search for a dense network
    dense_steps      first steps, in which all weights are read
    steps            in each of them the operation weights learn once and the other weights once
    batch            images, each time
    lr, lr_alpha     Adam's, of the weights and of alpha
    seed             initial weights and order of data

    Raises Refusal for values that search nothing.
    """

    sparsity: float = 0.0
    dense_steps: int = 50
    steps: int = 200
    batch: int = 64
    lr: float = 3e-3
    lr_alpha: float = 3e-2
    seed: int = 0

    def __post_init__(self) -> None:
        SparseSpec(share=self.sparsity)
        if self.steps < 1 or self.batch < 1 or self.seed < 0 or not 0 <= self.dense_steps <= self.steps:
            got = f"steps={self.steps}, dense_steps={self.dense_steps}, batch={self.batch}, seed={self.seed}"
            raise Refusal("SearchSpec", "steps and batch >= 1, dense_steps in [0, steps], seed >= 0", got, "correct it")
        if not (0 < self.lr < math.inf and 0 <= self.lr_alpha < math.inf):
            got = f"lr={self.lr}, lr_alpha={self.lr_alpha}"
            raise Refusal("SearchSpec", "finite lr > 0 and lr_alpha >= 0", got, "use 3e-3 and 3e-2")

    def sparsity_at(self, step: int) -> float:
        """The share that is read as 0 in step 0..steps-1."""
        return 0.0 if step < self.dense_steps else self.sparsity


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One finished step.

    step             steps finished so far
    loss             mean loss of the training batch before the update, nats
    validation_loss  mean loss of the validation batch before the update, nats
    """

    step: int
    loss: float
    validation_loss: float


class Search:
    """A bilevel search as an iterable of `SearchStep`: break out of it, look, and iterate again to go on.

        min over alpha of  L_val(w*(alpha), alpha),    w*(alpha) = argmin over w of  L_train(w * m, alpha)

    by turns, first order: a step of alpha at the present w, then a step of w. With ``spec.sparsity`` the mask m keeps
    the largest weights of every layer, so that alpha weighs what the operations do with few weights; without it this
    is the dense search, to the bit.

    train, validation  two sets of images that share none

    Source: Liu et al. 2018 (DARTS), algorithm 1 with xi = 0; the sparse objective after Mousavi et al. 2022 (DASS),
    who first train densely, then learn masks, then train with them, and move alpha all the while.
    """

    def __init__(self, space: SearchSpace, spec: SearchSpec, train: LabelledTask, validation: LabelledTask) -> None:
        self.space, self.spec, self.train, self.validation = space, spec, train, validation
        self.supernet = Supernet(space, init_seed=spec.seed)
        to_sparse(self.supernet, SparseSpec(share=spec.sparsity_at(0)), dense=(STEM,))
        self.step = 0
        #: softmax(alpha) before the first step and after every one.
        self.history: list[Float[np.ndarray, "edges operations"]] = [self.supernet.operation_weights]
        named = dict(self.supernet.named_parameters())
        self._alpha = named.pop("alpha")
        self._weights = list(named.values())
        self._of_alpha = torch.optim.Adam([self._alpha], lr=spec.lr_alpha, betas=(0.5, 0.999))
        self._of_weights = torch.optim.Adam(self._weights, lr=spec.lr, fused=True)

    def __iter__(self) -> Iterator[SearchStep]:
        while self.step < self.spec.steps:
            yield self._advance()

    def run(self) -> Search:
        """Search to the end. Returns itself."""
        for _ in self:
            pass
        return self

    @property
    def architecture(self) -> Architecture:
        """What the search would choose now."""
        return self.supernet.architecture

    def _advance(self) -> SearchStep:
        set_sparsity(self.supernet, self.spec.sparsity_at(self.step))
        validation_loss = self._learn(self.validation, 1, [self._alpha], self._of_alpha)
        loss = self._learn(self.train, 0, self._weights, self._of_weights)
        self.step += 1
        self.history.append(self.supernet.operation_weights)
        return SearchStep(self.step, loss, validation_loss)

    def _learn(
        self, data: LabelledTask, stream: int, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> float:
        images, labels = data.batch((self.spec.seed, self.step, stream), self.spec.batch)
        loss = data.nll(self.supernet, images, labels).mean()
        if not loss.isfinite():
            raise NonFiniteError("Search", f"a finite loss at step {self.step}", "NaN or infinity", "lower lr")
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        return loss.item()


__all__ = ["Search", "SearchSpec", "SearchStep"]
