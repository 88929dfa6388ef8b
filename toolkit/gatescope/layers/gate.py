"""One gate module for every variant of Qiu et al. 2025."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gatescope.gates import ACTIVATIONS, GateSpec
from gatescope.taps import GateScores, tap


def score_shape(spec: GateSpec, *, n_heads: int, n_kv_heads: int, head_dim: int, d_model: int) -> tuple[int, int]:
    """(N, W): heads and channels of the scores.

    position        element, per head   element, shared   head, per head   head, shared
    sdpa, query     (H, K)              (1, K)            (H, 1)           (1, 1)
    value, key      (G, K)              (1, K)            (G, 1)           (1, 1)
    output          (1, D)

    Source: score widths of Qiu et al. 2025, table 1.
    """
    if spec.position == "output":
        return 1, d_model
    heads = n_kv_heads if spec.position in ("value", "key") else n_heads
    return 1 if spec.sharing == "shared" else heads, head_dim if spec.granularity == "element" else 1


class Gate(nn.Module):
    """Scores act(X W_g + b) of a `GateSpec`, shown at the tap "gate".

    weight   [N*W, D], N(0, spec.weight_std^2); absent when spec.input is "none"
    logits   [N, W], spec.bias_init or 0; only when spec.input is "none"
    bias     [N, W], spec.bias_init; absent when spec.bias_init is None or spec.input is "none"
    """

    weight: nn.Parameter
    logits: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        spec: GateSpec,
        shape: tuple[int, int],
        d_model: int,
        *,
        layer: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.shape, self.layer = spec, shape, layer
        self.bias = None
        start = torch.full(shape, spec.bias_init or 0.0)
        if spec.input == "none":
            self.logits = nn.Parameter(start)
            return
        weight = torch.empty(shape[0] * shape[1], d_model)
        self.weight = nn.Parameter(nn.init.normal_(weight, std=spec.weight_std, generator=generator))
        if spec.bias_init is not None:
            self.bias = nn.Parameter(start)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B N T W"]:
        """The scores for the pre-normed layer input ``x``."""
        batch, length, _ = x.shape
        if self.spec.input == "none":
            logits = self.logits[:, None].expand(batch, -1, length, -1)
        else:
            bias = None if self.bias is None else self.bias.flatten()
            logits = functional.linear(x, self.weight, bias).view(batch, length, *self.shape).transpose(1, 2)
        scores = ACTIVATIONS[self.spec.activation].apply(logits)
        return tap("gate", GateScores(scores, self.spec.position, self.spec.combine), layer=self.layer).scores

    def combine(self, y: Float[Tensor, "B M T C"], scores: Float[Tensor, "B N T W"]) -> Float[Tensor, "B M T C"]:
        """Y * scores or Y + scores; N = 1 serves every head, W = 1 every channel."""
        return y * scores if self.spec.combine == "multiply" else y + scores

    def extra_repr(self) -> str:
        """What a printed model says about this gate."""
        return f"{self.spec.paper_name}, heads={self.shape[0]}, channels={self.shape[1]}, {self.spec.activation}"
