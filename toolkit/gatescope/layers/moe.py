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
from gatescope.layers.routers import DenseToSparse, dense_to_sparse, gumbel_like
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
    gate         None: k experts a token, always. `DenseToSparse`: as many as its threshold leaves, k at the least;
                 only with kind "softmax" and balancing None
    init_std     standard deviation of all initial weights

    Raises Refusal for sizes below 1, k above E, names outside these lists, and a gate that does not go with the rest.
    """

    experts: int
    k: int
    hidden: int
    kind: RouterKind = "softmax"
    renormalise: bool = True
    balancing: Balancing | None = None
    gate: DenseToSparse | None = None
    init_std: float = STD

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
        if self.gate is not None and (self.kind, self.balancing) != ("softmax", None):
            got = f"kind={self.kind!r}, balancing={self.balancing!r}"
            wanted = "kind='softmax', balancing=None for a dense-to-sparse gate, which ranks nobody"
            raise Refusal("MoESpec", wanted, got, "leave the gate or the balancing out")
        if not self.init_std > 0:
            raise Refusal("MoESpec", "init_std > 0", f"{self.init_std}", f"models here have {STD}")


class MoE(nn.Module):
    """The experts of a `MoESpec`, without capacity: no token is dropped, however uneven the load.

        logits = X W_r,    p = softmax(logits) or sigmoid(logits),    the k experts of largest p + bias
        Y = sum over them of w_e ((SiLU(X W_gate_e) * X W_up_e) W_down_e),    w = p, renormalised over the k or not

    router               [D -> E]; shown at the tap "router", where an intervention may change experts and weights
    w_gate, w_up         [E D F];  w_down [E F D];  all weights N(0, init_std^2)
    bias                 [E], zeros until `balance` moves it; only with balancing="bias"
    temperature          of a dense-to-sparse gate, moved by `anneal`; its experts are `routers.dense_to_sparse`, and
                         an expert is computed for none but the tokens that keep it

    Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral); DeepSeek-AI 2024 (DeepSeek-V3); Nie et al. 2021 (EvoMoE).
    """

    bias: Tensor | None
    temperature: Tensor | None

    def __init__(
        self, spec: MoESpec, d_model: int, *, layer: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        self.router = linear(d_model, spec.experts, generator, spec.init_std)
        inward, outward = (spec.experts, d_model, spec.hidden), (spec.experts, spec.hidden, d_model)
        self.w_gate, self.w_up, self.w_down = (
            nn.Parameter(nn.init.normal_(torch.empty(shape), std=spec.init_std, generator=generator))
            for shape in (inward, inward, outward)
        )
        self.register_buffer("bias", torch.zeros(spec.experts) if spec.balancing else None)
        self.register_buffer("temperature", torch.tensor(spec.gate.temperature.start) if spec.gate else None)
        self._noise: torch.Generator | None = None
        self._noise_seed = 0

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Route and apply the experts to a pre-normed input."""
        logits = self.router(x)
        seen, index, weight = self._choose(logits.flatten(0, 1))
        shape = (*x.shape[:2], index.shape[-1])
        seen = seen.view_as(logits)
        scores = RouterScores(
            logits=seen,
            probabilities=seen.softmax(-1) if self.spec.kind == "softmax" else seen.sigmoid(),
            index=index.view(shape),
            weight=weight.view(shape),
            kind=self.spec.kind,
            bias=self.bias,
        )
        scores = tap("router", scores, layer=self.layer)
        mix = self._mix if self.spec.gate is None else self._mix_visits
        return mix(x.flatten(0, 1), scores.index.flatten(0, 1), scores.weight.flatten(0, 1)).view_as(x)

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits that the probabilities are made from, the experts and their weights."""
        spec = self.spec
        if spec.gate is None:
            chosen = route(logits, spec.k, kind=spec.kind, renormalise=spec.renormalise, bias=self.bias)
            return logits, *chosen
        noise = None
        if self.training and spec.gate.noise == "gumbel":
            if self._noise is None:
                self._noise = torch.Generator(logits.device).manual_seed(self._noise_seed)
            noise = gumbel_like(logits, self._noise)
        return dense_to_sparse(
            logits,
            temperature=float(self.temperature),  # type: ignore[arg-type]  # a buffer wherever there is a gate
            threshold=spec.gate.threshold,
            least=spec.k,
            renormalise=spec.renormalise,
            noise=noise,
        )

    def _mix(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        return routed_experts(x, index, weight, self.w_gate, self.w_up, self.w_down)

    def _mix_visits(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """`_mix` of the choices whose weight is not 0, one row each."""
        token, choice = (weight.detach() != 0).nonzero(as_tuple=True)
        if not len(token):
            return torch.zeros_like(x)
        rows = self._mix(x[token], index[token, choice, None], weight[token, choice, None])
        return torch.zeros_like(x).index_add(0, token, rows)

    def anneal(self, step: int, seed: int = 0) -> None:
        """Before optimiser step ``step``: the temperature of that step, and noise that depends on seed, step and layer
        alone, so that a resumed run goes on to the bit.

        Raises Refusal for a layer without a dense-to-sparse gate.
        """
        if self.spec.gate is None or self.temperature is None:
            raise Refusal(
                "MoE.anneal", "a MoESpec with gate=DenseToSparse(...)", "gate=None", "build the layer with it"
            )
        self.temperature.fill_(self.spec.gate.temperature.at(step))
        self._noise, self._noise_seed = None, ((seed * 1_000_003 + step) * 1_009 + (self.layer or 0)) % 2**63

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
