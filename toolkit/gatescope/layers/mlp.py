"""The position-wise half of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.layers.init import linear
from gatescope.taps import tap

MLPKind = Literal["gelu", "relu", "swiglu"]


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """Which MLP, and how wide inside. Raises Refusal for an unknown kind or a width below 1.

    gelu     Y = GELU(X W_up) W_down                          (Vaswani et al. 2017, with GELU)
    relu     Y = ReLU(X W_up) W_down                          (Vaswani et al. 2017)
    swiglu   Y = (SiLU(X W_gate) * X W_up) W_down             (Shazeer 2020, eq. 6; llama)
    """

    kind: MLPKind
    hidden: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(MLPKind):
            raise Refusal("MLPSpec", f"kind in {get_args(MLPKind)}", repr(self.kind), "choose one of them")
        if self.hidden < 1:
            raise Refusal("MLPSpec", "hidden >= 1", f"{self.hidden}", "pass a width, usually 4 * d_model")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}


class MLP(nn.Module):
    """The MLP of an `MLPSpec`, without biases. Shows its hidden activations, as W_down reads them, at "mlp"."""

    def __init__(
        self, spec: MLPSpec, d_model: int, *, layer: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        if spec.kind == "swiglu":
            self.gate_proj = linear(d_model, spec.hidden, generator)
        self.up_proj = linear(d_model, spec.hidden, generator)
        self.down_proj = linear(spec.hidden, d_model, generator)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply the MLP to a pre-normed input."""
        if self.spec.kind == "swiglu":
            hidden = functional.silu(self.gate_proj(x)) * self.up_proj(x)
        else:
            hidden = ACTIVATIONS[self.spec.kind](self.up_proj(x))
        return self.down_proj(tap("mlp", hidden, layer=self.layer))
