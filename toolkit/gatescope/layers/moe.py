"""The position-wise half of a block as a mixture of experts: a router, and the experts it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from gatescope_kernels import route, routed_experts
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.init import STD, linear
from gatescope.taps import RouterScores, tap

RouterKind = Literal["softmax", "sigmoid"]
Balancing = Literal["bias"]


@dataclass(frozen=True, slots=True)
class MoESpec:
    """How many SwiGLU experts, how many of them a token visits, and how the router weighs them.

    experts      E experts; k of them for each token
    hidden       F channels inside one expert
    kind         "softmax" (Mixtral) or "sigmoid" (DeepSeek-V3) of the router's logits
    renormalise  the k weights of a token sum to 1
    balancing    None, or "bias": a bias an expert that only the selection sees, moved by `MoE.balance`

    Raises Refusal for sizes below 1, k above E and names outside these lists.
    """

    experts: int
    k: int
    hidden: int
    kind: RouterKind = "softmax"
    renormalise: bool = True
    balancing: Balancing | None = None

    def __post_init__(self) -> None:
        for name in ("experts", "k", "hidden"):
            if getattr(self, name) < 1:
                raise Refusal("MoESpec", f"{name} >= 1", f"{getattr(self, name)}", "pass a positive size")
        if self.k > self.experts:
            got = f"k={self.k} of {self.experts}"
            raise Refusal("MoESpec", "at most as many experts a token as there are", got, "lower k")
        if self.kind not in get_args(RouterKind):
            raise Refusal("MoESpec", f"kind in {get_args(RouterKind)}", repr(self.kind), "choose one of them")
        if self.balancing is not None and self.balancing not in get_args(Balancing):
            raise Refusal("MoESpec", "balancing None or 'bias'", repr(self.balancing), "choose one of them")


class MoE(nn.Module):
    """The experts of a `MoESpec`, without capacity: no token is dropped, however uneven the load.

        logits = X W_r,    p = softmax(logits) or sigmoid(logits),    the k experts of largest p + bias
        Y = sum over them of w_e ((SiLU(X W_gate_e) * X W_up_e) W_down_e),    w = p, renormalised over the k or not

    router               [D -> E]; shown at the tap "router", where an intervention may change experts and weights
    w_gate, w_up         [E D F];  w_down [E F D];  all weights N(0, 0.02^2)
    bias                 [E], zeros until `balance` moves it; only with balancing="bias"

    Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral); DeepSeek-AI 2024 (DeepSeek-V3).
    """

    bias: Tensor | None

    def __init__(
        self, spec: MoESpec, d_model: int, *, layer: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        self.router = linear(d_model, spec.experts, generator)
        inward, outward = (spec.experts, d_model, spec.hidden), (spec.experts, spec.hidden, d_model)
        self.w_gate, self.w_up, self.w_down = (
            nn.Parameter(nn.init.normal_(torch.empty(shape), std=STD, generator=generator))
            for shape in (inward, inward, outward)
        )
        self.register_buffer("bias", torch.zeros(spec.experts) if spec.balancing else None)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Route and apply the experts to a pre-normed input."""
        logits = self.router(x)
        index, weight = route(
            logits.flatten(0, 1), self.spec.k, kind=self.spec.kind, renormalise=self.spec.renormalise, bias=self.bias
        )
        shape = (*x.shape[:2], self.spec.k)
        scores = RouterScores(
            logits=logits,
            probabilities=logits.softmax(-1) if self.spec.kind == "softmax" else logits.sigmoid(),
            index=index.view(shape),
            weight=weight.view(shape),
            kind=self.spec.kind,
            bias=self.bias,
        )
        scores = tap("router", scores, layer=self.layer)
        y = routed_experts(
            x.flatten(0, 1),
            scores.index.flatten(0, 1),
            scores.weight.flatten(0, 1),
            self.w_gate,
            self.w_up,
            self.w_down,
        )
        return y.view_as(x)

    @torch.no_grad()
    def balance(self, load: Float[Tensor, " E"], rate: float = 1e-3) -> None:
        """Move the selection bias one step towards an even load, after an optimiser step.

            bias_e += rate * sign(mean(load) - load_e)

        ``load`` counts tokens or shares of them since the last step, for example expert_load of the probe Routing.
        Raises Refusal for a layer without balancing="bias".

        Source: Wang et al. 2024, Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts.
        """
        if self.bias is None:
            raise Refusal("MoE.balance", "a MoESpec with balancing='bias'", "balancing=None", "build the model with it")
        self.bias += rate * (load.mean() - load).sign().to(self.bias)

    def extra_repr(self) -> str:
        """What a printed model says about these experts."""
        spec = self.spec
        return f"experts={spec.experts}, k={spec.k}, hidden={spec.hidden}, {spec.kind}"
