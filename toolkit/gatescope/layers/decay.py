"""How fast the state of linear attention forgets: the gate as a clock."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gatescope.layers.init import linear
from gatescope.taps import GateScores, tap

DecayKind = Literal["none", "fixed", "head", "channel"]
#: A logit is divided by this after the log-sigmoid (Yang et al. 2023), so that a gate near 0.5 forgets slowly.
TEMPER = 16.0
#: Width of the low-rank map to a decay a channel (Yang et al. 2023).
RANK = 16


def half_life(score: float) -> float:
    """Tokens after which a state that keeps ``score`` of itself a token has lost half: log(1/2) / log(score).

    0 for a score of 0, infinite for a score of 1.
    """
    return 0.0 if score <= 0 else math.inf if score >= 1 else math.log(0.5) / math.log(score)


def logit_of(half_life: float) -> float:
    """The logit b whose score sigmoid(b)^(1/16) has this half-life, in tokens: sigmoid(b) = 2^(-16 / half_life)."""
    kept = 2 ** (-TEMPER / half_life)
    return math.log(kept) - math.log1p(-kept)


def log_decay(logit: Float[Tensor, "B N T W"], layer: int | None) -> Float[Tensor, "B N T W"]:
    """g = logsigmoid(logit) / 16, shown as scores exp(g) at the tap "gate", position "decay"."""
    g = functional.logsigmoid(logit) / TEMPER
    scores = g.exp()
    shown = tap("gate", GateScores(scores, "decay"), layer=layer).scores
    return g if shown is scores else shown.log()  # an untouched gate keeps the digits that exp loses


class Decay(nn.Module):
    """Log decays g of the state, at most 0, shown as scores exp(g) at the tap "gate", position "decay".

        g = logsigmoid(logit) / 16

    kind        logit                                   scores
    "fixed"     b, the same for every token             [B H T 1]
    "head"      X W + b                                 [B H T 1]
    "channel"   X W_1 W_2 + b, W_1 of width 16          [B H T K]

    b starts so that a score has ``half_life``; 16 tokens is b = 0, a score of 0.958. Only "fixed" cannot depend on the
    token. What a handler makes of the scores is what the state gets.

    Source: Yang et al. 2023, Gated Linear Attention Transformers, section 4.4 ("channel"); "head" as in Mamba-2;
    "fixed" as in RetNet, there a constant, here learned.
    """

    def __init__(
        self,
        kind: DecayKind,
        d_model: int,
        n_heads: int,
        key_dim: int,
        half_life: float,
        *,
        layer: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.layer, self.n_heads = kind, layer, n_heads
        width = n_heads * (key_dim if kind == "channel" else 1)
        self.bias = nn.Parameter(torch.full((width,), logit_of(half_life)))
        if kind == "channel":
            self.down, self.up = linear(d_model, RANK, generator), linear(RANK, width, generator)
        elif kind == "head":
            self.up = linear(d_model, width, generator)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T W"]:
        """The log decays for the pre-normed layer input ``x``; W = 1 decays all channels alike."""
        batch, length, _ = x.shape
        if self.kind == "fixed":
            logit = self.bias.expand(batch, length, -1)
        else:
            logit = self.up(self.down(x) if self.kind == "channel" else x) + self.bias
        return log_decay(logit.unflatten(-1, (self.n_heads, -1)).transpose(1, 2), self.layer)


__all__ = ["RANK", "TEMPER", "Decay", "DecayKind", "half_life", "log_decay", "logit_of"]
