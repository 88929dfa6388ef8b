"""Adaptive computation modules: an MLP as a row of learners, of which every token runs as many as it needs.

Shapes: B sequences, T tokens, D channels, N learners of F hidden channels each, C = N + 1 choices from 0 to N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.layers.init import STD, spawn
from gatescope.layers.mlp import ACTIVATIONS
from gatescope.taps import tap

LearnerKind = Literal["gelu", "relu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ACMSpec:
    """How many learners, how wide each, and who says how many a token runs.

    learners     N
    hidden       F, channels inside one learner; N F is the width of an MLP of the same size
    kind         activation
    count        None: a gate decides for every token; a number: every token runs that many, which is the baseline
    temperature  of the gate's Gumbel softmax while it trains
    init_std     standard deviation of all initial weights

    Raises Refusal for sizes below 1, another kind, a count outside 0..N and a temperature or std that is not above 0.
    """

    learners: int
    hidden: int
    kind: LearnerKind = "gelu"
    count: int | None = None
    temperature: float = 1.0
    init_std: float = STD

    def __post_init__(self) -> None:
        if min(self.learners, self.hidden) < 1:
            got = f"learners={self.learners}, hidden={self.hidden}"
            raise Refusal("ACMSpec", "one learner or more, hidden >= 1", got, "pass positive sizes")
        if self.kind not in get_args(LearnerKind):
            raise Refusal("ACMSpec", f"kind in {get_args(LearnerKind)}", repr(self.kind), "choose one of them")
        if self.count is not None and not 0 <= self.count <= self.learners:
            raise Refusal("ACMSpec", f"count None or in 0..{self.learners}", f"{self.count}", "a token runs no more")
        if not (self.temperature > 0 and self.init_std > 0):
            got = f"temperature={self.temperature}, init_std={self.init_std}"
            raise Refusal("ACMSpec", "a temperature and a std above 0", got, f"1 and {STD} are usual")


class LearnerGate(nn.Module):
    """One choice a token: rows of a single 1, at c where c learners shall run.

        logits = X W + b,    training: Gumbel softmax, hard forward and soft backward;    else: the largest logit

    Source: Wójcik et al. 2023, ACM; Jang et al. 2016 (Gumbel softmax with a straight-through gradient).
    """

    def __init__(self, spec: ACMSpec, d_model: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.temperature = spec.temperature
        self.score = nn.utils.skip_init(nn.Linear, d_model, spec.learners + 1)
        nn.init.normal_(self.score.weight, std=spec.init_std, generator=generator)
        nn.init.zeros_(self.score.bias)
        self._noise = spawn(generator, 1)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T C"]:
        """The choice of every token."""
        logits = self.score(x)
        if not self.training:
            return one_hot(logits.argmax(-1), logits)
        noise = -torch.empty_like(logits).exponential_(generator=self._noise).log()
        soft = ((logits + noise) / self.temperature).softmax(-1)
        return one_hot(soft.argmax(-1), logits) + soft - soft.detach()


class FixedCount(nn.Module):
    """The gate's ablation: the same number of learners for every token, whatever it is."""

    def __init__(self, spec: ACMSpec) -> None:
        super().__init__()
        self.count, self.choices = spec.count or 0, spec.learners + 1

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T C"]:
        """The choice of every token."""
        return functional.one_hot(torch.full(x.shape[:-1], self.count), self.choices).to(x)


def one_hot(counts: Int[Tensor, "B T"], like: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
    """Counts as rows of a single 1, in the type and width of ``like``."""
    return functional.one_hot(counts, like.shape[-1]).to(like)


class ACM(nn.Module):
    """An MLP of N learners, of which a token runs the first c.

        s_n(x) = act(x W_up_n) W_down_n,    y = sum_{n <= c} s_n(x),    c from the gate;    0 learners give 0

    up      [N D F];  down [N F D];  all weights N(0, init_std^2), without biases, as `MLP`
    gate    `LearnerGate`, or `FixedCount` where the spec has a count. All that decides passes through this module, so
            that a forward hook on it may read or replace the choice

    Where no gradient is asked for, a learner is computed for those tokens alone that run it. Hidden activations pass at
    "mlp" as [B T N F]-flattened, those of learners that did not run as 0.

    Source: Wójcik et al. 2023, Adaptive Computation Modules (arXiv 2312.10193). Their code stops one learner short for
    tokens that choose the maximum; here c = N runs all N.
    """

    def __init__(
        self, spec: ACMSpec, d_model: int, *, layer: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        shapes = (spec.learners, d_model, spec.hidden), (spec.learners, spec.hidden, d_model)
        self.up, self.down = (
            nn.Parameter(nn.init.normal_(torch.empty(shape), std=spec.init_std, generator=generator))
            for shape in shapes
        )
        self.gate: LearnerGate | FixedCount
        if spec.count is None:
            self.gate = LearnerGate(spec, d_model, generator=generator)
        else:
            self.gate = FixedCount(spec)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Run as many learners for every token as the gate says."""
        choice = self.gate(x)
        if torch.is_grad_enabled():
            runs = choice.flip(-1).cumsum(-1).flip(-1)[..., 1:]
            hidden = self._act(torch.einsum("btd,ndf->btnf", x, self.up)) * runs[..., None]
        else:
            hidden = self._hidden_of_some(x, choice.argmax(-1))
        hidden = tap("mlp", hidden.flatten(2), layer=self.layer)
        if torch.is_grad_enabled():
            return hidden @ self.down.flatten(0, 1)
        return self._down_of_some(hidden.unflatten(-1, (self.spec.learners, -1)), choice.argmax(-1))

    def gate_logits(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B C"]:
        """What the gate weighs. Raises Refusal for a module with a fixed count."""
        if not isinstance(self.gate, LearnerGate):
            raise Refusal(
                "ACM.gate_logits", "a spec with count=None", f"count={self.spec.count}", "build it with a gate"
            )
        return self.gate.score(x)

    def _act(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.spec.kind](x)

    def _hidden_of_some(self, x: Float[Tensor, "B T D"], counts: Int[Tensor, "B T"]) -> Float[Tensor, "B T N F"]:
        hidden = x.new_zeros(*x.shape[:2], self.spec.learners, self.spec.hidden)
        for n in range(int(counts.max())):
            rows = counts > n
            hidden[rows, n] = self._act(x[rows] @ self.up[n])
        return hidden

    def _down_of_some(self, hidden: Float[Tensor, "B T N F"], counts: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        out = hidden.new_zeros(*hidden.shape[:2], self.down.shape[-1])
        for n in range(int(counts.max())):
            rows = counts > n
            out[rows] += hidden[rows, n] @ self.down[n]
        return out

    def partial(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B C D"]:
        """What 0, 1, ..., N learners add up to. A sum's gradient reaches its last learner alone, which so learns what
        those before it have left over."""
        hidden = self._act(torch.einsum("...d,ndf->...nf", x, self.up))
        own = torch.einsum("...nf,nfd->...nd", hidden, self.down)
        sums = own + (own.cumsum(-2) - own).detach()
        return torch.cat([torch.zeros_like(sums[..., :1, :]), sums], dim=-2)

    def flops(self, counts: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Operations of a token that runs so many learners, its gate included: 2 m n k a matrix product."""
        gate = 2 * self.up.shape[1] * (self.spec.learners + 1) if self.spec.count is None else 0
        return gate + 4.0 * self.up.shape[1] * self.spec.hidden * counts


def partial_errors(partial: Float[Tensor, "*B C D"], target: Float[Tensor, "*B D"]) -> Float[Tensor, "*B C"]:
    """How far 0, 1, ..., N learners are from what they shall replace: mean over channels of the squared difference.

    Their mean is the loss of distillation: every number of learners shall do as well as it can.
    """
    return (partial - target[..., None, :]).square().mean(-1)


def fewest_learners(errors: Float[Tensor, "*B C"], factor: float) -> Int[Tensor, "*B"]:
    """How many learners a token needs, which its gate is first taught: one more is worth it while it helps enough.

        the smallest c with err_c / err_{c+1} < factor,    N where there is none

    Raises Refusal for a factor below 1.

    Source: Wójcik et al. 2023, the labels of gate pre-training.
    """
    if not factor >= 1:
        raise Refusal("fewest_learners", "factor >= 1", f"{factor}", "1.2: a fifth better, or not worth it")
    enough = errors[..., :-1] < factor * errors[..., 1:]
    return (~enough).long().cumprod(-1).sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """What is added to the task's loss so that gates keep a budget, see `budget_loss`.

    budget     share of the learners that shall run on average, in [0, 1]
    weight     of the distance from it
    entropy    of the reward for using all choices
    diversity  of the reward for telling tokens apart

    Raises Refusal for values out of range. The weights are of this project: the paper tunes its own.
    """

    budget: float
    weight: float = 1.0
    entropy: float = 0.02
    diversity: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise Refusal("BudgetSpec", "a budget in [0, 1]", f"{self.budget}", "it is a share of the learners")
        if min(self.weight, self.entropy, self.diversity) < 0:
            got = f"weight={self.weight}, entropy={self.entropy}, diversity={self.diversity}"
            raise Refusal("BudgetSpec", "weights of 0 or more", got, "0 leaves a term out")


def shares(choice: Float[Tensor, "B T C"]) -> Float[Tensor, "B T"]:
    """The share of all learners that every token runs."""
    steps = torch.linspace(0, 1, choice.shape[-1], dtype=choice.dtype, device=choice.device)
    return choice @ steps


def budget_loss(choices: Sequence[Float[Tensor, "B T C"]], spec: BudgetSpec) -> Float[Tensor, ""]:
    """The auxiliary losses of the gates of all modules, from their choices in one pass.

        weight |mean share - budget|  -  entropy H(mean choice) / log C  -  diversity mean_{i, j} |share_i - share_j|

    The first mean is over tokens and modules: modules may differ. H and the pairs of tokens are taken module by module
    and averaged. Raises Refusal for no choices.

    Source: Wójcik et al. 2023, end-to-end phase; the exact form of the last two terms is a reconstruction.
    """
    if not choices:
        raise Refusal("budget_loss", "the choices of at least one module", "none", "collect them with `gate_choices`")
    off = (torch.stack([shares(choice).mean() for choice in choices]).mean() - spec.budget).abs()
    used = torch.stack([_spread(choice.flatten(0, -2).mean(0)) for choice in choices]).mean()
    apart = torch.stack([_apart(shares(choice).flatten()) for choice in choices]).mean()
    return spec.weight * off - spec.entropy * used - spec.diversity * apart


def _spread(p: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    """Entropy over its maximum."""
    return -torch.special.xlogy(p, p.clamp(min=1e-9)).sum() / math.log(len(p))


def _apart(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean |x_i - x_j| over all pairs, from the sorted values: 2 / n^2 sum_i (2 i - n + 1) x_(i)."""
    n = len(values)
    place = torch.arange(n, dtype=values.dtype, device=values.device)
    return 2 / n**2 * ((2 * place - n + 1) * values.sort().values).sum()


__all__ = [
    "ACM",
    "ACMSpec",
    "BudgetSpec",
    "FixedCount",
    "LearnerGate",
    "budget_loss",
    "fewest_learners",
    "one_hot",
    "partial_errors",
    "shares",
]
