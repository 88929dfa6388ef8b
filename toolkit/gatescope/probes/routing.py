"""Routing: how evenly experts are used, how sure the router is, and which experts go together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray as xr

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event, RouterScores

_FEDUS = "Fedus et al. 2021, Switch Transformers"
_WANG = "Wang et al. 2024, Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts"
_SHAZEER = "Shazeer et al. 2017, Outrageously Large Neural Networks"
_OLMOE = "Muennighoff et al. 2024, OLMoE: Open Mixture-of-Experts Language Models"
_OURS = "metrics of this project, after Shannon 1948"
_UNIFORM = "k different experts a token, all alike"


class Routing(Probe):
    """What the routers of a mixture of experts do, layer by layer. Padding is left out.

        N_e = tokens that visit expert e,    f_e = N_e / sum N,    P_e = mean over tokens of p_e / sum_j p_j

    A token visits the experts of its k choices whose weight is not 0. Shared experts, which every token visits, and
    dense layers do not enter. Probabilities are normalised over experts, which changes nothing after a softmax and is
    what DeepSeek-V3 does after a sigmoid. Baselines are expectations for N tokens that each visit k different experts
    drawn at random, with the N that were seen.

    keep  keep which experts every token visits, and with what weight (one sequence only)

    The window in which an expert is dead is everything seen since `reset`; `window_tokens` says how many tokens that
    were. Raises Refusal for a single expert.
    """

    name = "routing"
    sites = frozenset({"router"})
    quantities = (
        Quantity(
            "expert_load",
            ("layer", "expert"),
            "1",
            "share of assignments",
            "f_e = N_e / sum_j N_j",
            _FEDUS,
            f"{_UNIFORM}: 1/E",
        ),
        Quantity(
            "expert_importance",
            ("layer", "expert"),
            "1",
            "mean router probability",
            "P_e = mean over tokens of p_e / sum_j p_j",
            _FEDUS,
            "all probabilities alike: 1/E",
        ),
        Quantity(
            "load_entropy",
            ("layer",),
            "1",
            "normalised load entropy",
            "H(f) / log E, H(f) = -sum_e f_e log f_e",
            _OURS,
            f"{_UNIFORM}: E[H(f)] / log E, N_e binomial (N, k/E)",
        ),
        Quantity(
            "experts_effective",
            ("layer",),
            "experts",
            "effective experts",
            "exp H(f)",
            _OURS,
            f"{_UNIFORM}: about exp E[H(f)]",
        ),
        Quantity(
            "load_violation",
            ("layer",),
            "1",
            "MaxVio of all tokens together",
            "(max_e N_e - mean_e N_e) / mean_e N_e",
            f"{_WANG} (MaxVio global)",
            f"{_UNIFORM}: about sqrt(2 log(E) (E - k) / (k N)); no closed form",
        ),
        Quantity(
            "load_violation_batch",
            ("layer",),
            "1",
            "MaxVio of a forward pass, mean over passes",
            "mean over forward passes of (max_e N_e - mean_e N_e) / mean_e N_e",
            f"{_WANG} (MaxVio batch)",
            f"{_UNIFORM}: about sqrt(2 log(E) (E - k) / (k N)) with the N of a pass; no closed form",
        ),
        Quantity(
            "load_cv",
            ("layer",),
            "1",
            "coefficient of variation of the load",
            "standard deviation over experts of N_e / mean_e N_e",
            _SHAZEER,
            f"{_UNIFORM}: sqrt((E - k) / (k N)), the root of the mean square",
        ),
        Quantity(
            "experts_dead",
            ("layer",),
            "experts",
            "dead experts",
            "number of experts with N_e = 0 in the window",
            _OURS,
            f"{_UNIFORM}: E (1 - k/E)^N",
        ),
        Quantity(
            "expert_dead",
            ("layer", "expert"),
            "1",
            "expert is dead",
            "N_e = 0 in the window",
            _OURS,
            f"{_UNIFORM}: true with probability (1 - k/E)^N",
        ),
        Quantity(
            "router_entropy",
            ("layer",),
            "nats",
            "entropy of the router, token by token",
            "mean over tokens of -sum_e p_e log p_e, p normalised over experts",
            _OURS,
            "all probabilities alike: log E",
        ),
        Quantity(
            "experts_visited",
            ("layer",),
            "experts",
            "experts a token visits, mean",
            "sum_e N_e / tokens",
            _OURS,
            "a router of fixed k: k",
        ),
        Quantity(
            "coactivation",
            ("layer", "expert", "other_expert"),
            "1",
            "share of an expert's tokens that visit the other expert too",
            "N_ij / N_i, N_ij = tokens that visit experts i and j; NaN where N_i = 0",
            _OLMOE,
            f"{_UNIFORM}: (k - 1) / (E - 1) off the diagonal",
        ),
        Quantity(
            "switch_loss",
            ("layer",),
            "1",
            "load-balancing loss of Switch Transformers",
            "E sum_e f_e P_e, without a factor alpha",
            _FEDUS,
            "all probabilities alike: 1",
        ),
        Quantity(
            "token_expert",
            ("layer", "token", "choice"),
            "1",
            "expert that a token visits",
            "index_j of the token, j its choice",
            _OLMOE,
            "any expert with probability 1/E",
        ),
        Quantity(
            "token_weight",
            ("layer", "token", "choice"),
            "1",
            "weight of the expert that a token visits",
            "w_j of the token, as the model multiplies it",
            _OLMOE,
            "k weights alike that sum to 1: 1/k",
        ),
    )

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self.keep = keep

    def watch(self, event: Event) -> None:
        """Add one router."""
        scores: RouterScores = event.value
        B, T, E = scores.probabilities.shape
        if E < 2:
            raise Refusal("Routing", "two experts or more", f"one in layer {event.layer}", "leave this probe out")
        self.sums.kinds.add(scores.kind)
        text = text_positions(event, (B, T), scores.index.device)
        p = scores.probabilities.detach()[text].to(precise(scores.probabilities))
        p = p / p.sum(-1, keepdim=True)
        index, weight = scores.index[text], scores.weight.detach()[text]
        # Double also keeps the product of counts out of reach of autocast.
        visits = torch.zeros(len(index), E, dtype=p.dtype, device=index.device)
        visits.scatter_reduce_(1, index.long(), (weight != 0).to(p.dtype), "amax")
        load = visits.sum(0)
        average = load.mean()
        self.sums.add(
            event.layer,
            load=load,
            probability=p.sum(0),
            entropy=-torch.xlogy(p, p).sum(),
            pairs=visits.T @ visits,
            violation=torch.where(average > 0, load.max() / average - 1, 0),
            choices=(weight != 0).sum(),
            tokens=text.sum(),
            passes=average > 0,
        )
        if self.keep:
            self._keep(event.layer, scores, text)

    def _keep(self, layer: int | None, scores: RouterScores, text: torch.Tensor) -> None:
        B = len(text)
        if B > 1 or self.sums.get(layer, "index") is not None:
            raise Refusal(
                "Routing(keep=True)",
                "one sequence and one forward pass",
                f"{B} sequences" if B > 1 else "a second pass",
                "pass tokens[:1], or call reset() in between, or leave keep out",
            )
        places = text[0].nonzero()[:, 0]
        self.sums.put(layer, index=scores.index[0, places], weight=scores.weight[0, places].double(), places=places)

    def finalize(self) -> xr.Dataset:
        """Everything in ``quantities``; the map of tokens to experts only with keep=True."""
        sums = self.sums
        seen = ("tokens that visit an expert", "give the model text")
        load, tokens = sums.read("load"), sums.read("tokens")
        f = sums.mean("load", "choices", *seen)
        P = sums.mean("probability", "tokens", *seen)
        E, entropy = f.shape[-1], _entropy(f)
        N, k = tokens.mean(), (sums.read("choices") / tokens).mean()
        average = load.mean(-1)
        variables: dict[str, tuple[Any, dict[str, Any]]] = {
            "expert_load": (f, {"baseline_value": 1 / E}),
            "expert_importance": (P, {"baseline_value": 1 / E}),
            "load_entropy": (entropy / math.log(E), {"baseline_value": uniform_entropy(E, k, N) / math.log(E)}),
            "experts_effective": (np.exp(entropy), {"baseline_value": math.exp(uniform_entropy(E, k, N))}),
            "load_violation": (load.max(-1) / average - 1, {}),
            "load_violation_batch": (sums.mean("violation", "passes", *seen), {}),
            "load_cv": (load.std(-1) / average, {"baseline_value": math.sqrt(max(E - k, 0) / (k * N))}),
            "experts_dead": ((load == 0).sum(-1), {"baseline_value": E * (1 - k / E) ** N}),
            "expert_dead": (load == 0, {}),
            "router_entropy": (sums.mean("entropy", "tokens", *seen), {"baseline_value": math.log(E)}),
            "experts_visited": (sums.mean("choices", "tokens", *seen), {}),
            "coactivation": (_conditional(sums.read("pairs")), {"baseline_value": (k - 1) / (E - 1)}),
            "switch_loss": (E * (f * P).sum(-1), {"baseline_value": 1.0}),
        }
        coords = {}
        if self.keep:
            variables["token_expert"] = (sums.read("index").astype("int64"), {"baseline_value": None})
            variables["token_weight"] = (sums.read("weight"), {"baseline_value": 1 / k})
            coords["token"] = sums.read("places")[0].astype("int64")
        record = self._record(variables, **coords)
        for variable in record.data_vars.values():
            variable.attrs.update(window_tokens=int(tokens.max()), router=", ".join(sorted(self.sums.kinds)))
        return record


def uniform_entropy(E: int, k: int | float, N: int | float) -> float:
    """E[H(f)] in nats of N tokens that each visit k different experts of E drawn at random: N_e is binomial (N, k/E).

    Exact where k and N are whole; averages over layers are rounded.
    """
    N, k = max(round(N), 1), max(round(k), 1)
    if k >= E:
        return math.log(E)
    p, expected = k / E, N * k / E
    spread = 12 * math.sqrt(expected) + 12
    counts = range(max(1, math.floor(expected - spread)), min(N, math.ceil(expected + spread)) + 1)
    ways = math.lgamma(N + 1)
    total = 0.0
    for n in counts:
        chance = ways - math.lgamma(n + 1) - math.lgamma(N - n + 1) + n * math.log(p) + (N - n) * math.log1p(-p)
        total -= math.exp(chance) * n / (N * k) * math.log(n / (N * k))
    return E * total


def _entropy(f: np.ndarray) -> np.ndarray:
    return -(f * np.log(np.where(f > 0, f, 1))).sum(-1)


def _conditional(pairs: np.ndarray) -> np.ndarray:
    own = np.diagonal(pairs, axis1=-2, axis2=-1)[..., None]
    return np.where(own > 0, pairs / np.maximum(own, 1), np.nan)


__all__ = ["Routing", "uniform_entropy"]
