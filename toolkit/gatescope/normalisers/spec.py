"""Which normaliser: a frozen spec, and what applies it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.normalisers.table import NORMALISERS


@dataclass(frozen=True, slots=True)
class NormaliserSpec:
    """A row of NORMALISERS and its one number.

    name       of the row
    parameter  what the row calls its parameter: alpha of "entmax", the logit of "learned_sink", the bias of "sigmoid";
               None for the row's own default

    Raises Refusal for an unknown name, a parameter where there is none, one that is not finite, and alpha not in
    (1, 4].
    """

    name: str = "softmax"
    parameter: float | None = None

    def __post_init__(self) -> None:
        row = NORMALISERS.get(self.name)
        if row is None:
            raise Refusal("NormaliserSpec", f"a name in {tuple(NORMALISERS)}", repr(self.name), "choose one of them")
        if self.parameter is None:
            return
        if not row.parameter:
            raise Refusal("NormaliserSpec", f"no parameter for {self.name}", f"{self.parameter}", "leave it out")
        if not math.isfinite(self.parameter):
            raise Refusal("NormaliserSpec", f"a finite {row.parameter}", f"{self.parameter}", "pass a number")
        if self.name == "entmax" and not 1 < self.parameter <= 4:
            step = "alpha = 1 is softmax" if self.parameter <= 1 else "2 is as sparse as sparsemax already"
            raise Refusal("NormaliserSpec", "alpha above 1 and up to 4", f"{self.parameter}", step)

    @property
    def value(self) -> float | None:
        """The parameter, or the row's default; None where the row computes it."""
        return NORMALISERS[self.name].default if self.parameter is None else self.parameter


SOFTMAX = NormaliserSpec()


def normalise(scores: Float[Tensor, "*B n"], spec: NormaliserSpec = SOFTMAX) -> Float[Tensor, "*B n"]:
    """The weights of every row of scores. A score of -inf gets the weight 0; a row of nothing else is NaN, as in
    torch.softmax (with a sink or the sigmoid it is 0)."""
    return NORMALISERS[spec.name].weights(scores, spec.value)


def potential(scores: Float[Tensor, "*B n"], spec: NormaliserSpec = SOFTMAX) -> Float[Tensor, "*B"]:
    """The convex function of the scores whose gradient `normalise` is: logsumexp for softmax, one number a row.

    For alpha-entmax it is max over p of p.s + H_alpha(p), the conjugate of minus Tsallis' entropy; for the sigmoid
    the sum of softplus(s + b).

    Source: Blondel, Martins, Niculae 2020, Learning with Fenchel-Young Losses, table 1.
    """
    return NORMALISERS[spec.name].potential(scores, spec.value)
