"""Attention sinks: where attention piles up, and on which keys."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import xarray as xr
from gatescope_kernels import gated_attention
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._readers import Samples
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import AttentionCall, Event

_GU = "Gu et al. 2024, When Attention Sink Emerges in Language Models"
_QIU = "Qiu et al. 2025, Gated Attention for Large Language Models"


class Sinks(Probe):
    """Attention to the first token, sink scores of chosen keys, and the attention every key receives.

        F-Attn(l, h)   = mean over samples and rows i >= first_query of A[i, 0]
        alpha_k(l, h)  = mean over rows i >= k of A[i, k]

    chosen       keys k a sink score is wanted for, 0-based
    first_query  first row counted by first_attention; row 0 of a causal model is trivially 1
    epsilon      a sample has a sink at k when alpha_k > epsilon

    Rows that are padding or see nothing are left out. Sequences of different lengths may follow each other. Of a packed
    sequence every document is a sample: its rows, keys and chosen keys count from its own first token, as if it had
    come alone. Raises Refusal when a chosen key is padding: pad on the right.
    """

    name = "sinks"
    sites = frozenset({"attention"})
    stats = frozenset({"mass", "key_mass"})
    quantities = (
        Quantity(
            "first_attention",
            ("layer", "head"),
            "1",
            "attention to the first token",
            "mean over samples and rows i >= first_query of A[i,0]",
            f"{_QIU} (F-Attn)",
            "uniform causal attention: mean over the same rows of 1/(i+1); H_T/T when row 0 counts",
        ),
        Quantity(
            "sink_score",
            ("layer", "head", "chosen"),
            "1",
            "mean attention to the chosen key",
            "alpha_k = mean over rows i >= k of A[i,k], then mean over samples",
            f"{_GU} (alpha_k)",
            "uniform causal attention: mean over rows i >= k of 1/(i+1)",
        ),
        Quantity(
            "sink_share",
            ("layer", "head", "chosen"),
            "1",
            "share of samples with a sink at the chosen key",
            "share of samples with alpha_k > epsilon",
            f"{_GU} (Sink^eps_k)",
            "uniform causal attention: 0 once alpha_k falls below epsilon (epsilon .3: T >= 12 for k = 0)",
        ),
        Quantity(
            "key_mass",
            ("layer", "head", "token"),
            "1",
            "attention a key receives, per row that can see it",
            "sum_i A[i,j] / #(rows that see j), mean over samples; NaN where no row sees j",
            "column sums of the attention matrix",
            "uniform causal attention: mean over i >= j of 1/(i+1)",
        ),
        Quantity(
            "sink_mass",
            ("layer", "head"),
            "1",
            "attention to the learned sink",
            "mean over samples and rows of 1 - sum_j A[i,j]",
            "OpenAI 2025, gpt-oss model card",
            "all logits equal: mean over rows of 1/n_i, the sink counted in n_i",
        ),
    )

    def __init__(self, chosen: tuple[int, ...] = (0,), first_query: int = 1, epsilon: float | int = 0.3) -> None:
        super().__init__()
        if not chosen or min(chosen) < 0 or first_query < 0:
            raise Refusal(
                "Sinks",
                "chosen keys and a first_query of 0 or more",
                f"chosen={tuple(chosen)}, first_query={first_query}",
                "count positions from 0, the first token",
            )
        self.chosen, self.first_query, self.epsilon = tuple(sorted(set(chosen))), first_query, epsilon
        self.mass_keys = tuple(sorted({0, *chosen}))

    @staticmethod
    def uniform_baseline(length: int, first_query: int = 1) -> float:
        """First-token attention of uniform causal attention over ``length`` tokens: mean of 1/(i+1), i >= first_query.

        Raises Refusal when no row is left.
        """
        rows = range(first_query, length)
        if not rows:
            raise Refusal("Sinks", f"more than {first_query} tokens", str(length), "lower first_query")
        return sum(1 / (i + 1) for i in rows) / len(rows)

    def watch(self, event: Event) -> None:
        """Add one attention."""
        call, stats = event.value, event.stats
        B, _, T = stats.lse.shape
        device, samples = stats.lse.device, Samples.of(call)
        keys = torch.tensor(self.mass_keys, device=device)
        text = text_positions(event, (B, T), device)
        self._refuse_padded(event, samples, keys, text)
        outcomes = stats.visible + (stats.sink_mass is not None)
        rows = text & (outcomes > 0)

        mass = cast(Tensor, stats.mass)[..., [stats.keys.index(key) for key in self.mass_keys]]
        visible = samples.see(call.visibility, keys, call.key_mask)
        uniform = (visible / outcomes.clamp(min=1)[..., None])[:, None]

        counted = (rows & (samples.position >= self.first_query))[:, None]
        self.sums.add(
            event.layer,
            first=_sum(torch.where(counted, mass[..., 0], 0), (0, 2)),
            first_uniform=torch.where(counted, uniform[..., 0], 0).sum(),
            first_rows=counted.sum(),
        )
        own = [self.mass_keys.index(key) for key in self.chosen]
        below = (rows[..., None] & (samples.position[..., None] >= keys[own]))[:, None]
        n_rows = samples.sum_rows(below)
        alpha, alpha_uniform = (
            samples.sum_rows(torch.where(below, x[..., own], 0)) / n_rows.clamp(min=1) for x in (mass, uniform)
        )
        self.sums.add(
            event.layer,
            alpha=alpha.sum(0),
            alpha_uniform=alpha_uniform.sum((0, 1)),
            share=(alpha > self.epsilon).sum(0),
            share_uniform=(alpha_uniform > self.epsilon).sum((0, 1)),
            samples=(n_rows > 0).sum((0, 1)),
        )
        self._add_key_mass(event, samples, rows)
        if stats.sink_mass is not None:
            self.sums.add(
                event.layer,
                sink_mass=_sum(torch.where(rows[:, None], stats.sink_mass, 0), (0, 2)),
                sink_uniform=torch.where(rows, 1 / outcomes, 0).sum(),
                sink_rows=rows.sum(),
            )

    def _add_key_mass(self, event: Event, samples: Samples, rows: Bool[Tensor, "B T"]) -> None:
        call = event.value
        readers = samples.readers(call.visibility, rows)
        if call.key_mask is not None:
            readers = readers * call.key_mask
        received = cast(Tensor, event.stats.key_mass) if event.key_mask is None else _key_mass_of(call, rows)
        per_reader = torch.where(readers[:, None] > 0, received / readers.clamp(min=1)[:, None], 0)
        self.sums.add_growing(
            event.layer,
            key_mass=samples.sum_places(per_reader),
            key_samples=samples.sum_places((readers > 0)[:, None])[0],
        )

    def _refuse_padded(self, event: Event, samples: Samples, keys: Tensor, text: Bool[Tensor, "B T"]) -> None:
        if event.key_mask is None:
            return
        padded = samples.at(keys, ~event.key_mask)
        # Padding at the end of a packed sequence may be a document of its own.
        if bool((padded & text[..., None] if samples.packed else padded).any()):
            raise Refusal(
                "Sinks", f"text at the chosen keys {self.mass_keys}", "padding in some sequence", "pad on the right"
            )

    def finalize(self) -> xr.Dataset:
        """first_attention, sink_score, sink_share, key_mass, and sink_mass where the model has a learned sink."""
        sums = self.sums
        more = (f"rows at or after first_query={self.first_query}", "give the model more tokens, or lower first_query")
        later = (f"rows at or after each of the chosen keys {self.chosen}", "give the model more tokens")
        first_about = {
            "baseline_value": sums.mean("first_uniform", "first_rows", *more).mean(),
            "first_query": self.first_query,
        }
        score_about = {"baseline_value": sums.mean("alpha_uniform", "samples", *later).mean()}
        share_about = {
            "baseline_value": sums.mean("share_uniform", "samples", *later).mean(),
            "epsilon": self.epsilon,
        }
        samples = sums.read("samples")[:, None]
        received, readers = sums.read("key_mass"), sums.read("key_samples")[:, None]
        variables = {
            "first_attention": (sums.mean("first", "first_rows", *more), first_about),
            "sink_score": (sums.read("alpha") / samples, score_about),
            "sink_share": (sums.read("share") / samples, share_about),
            "key_mass": (xr.where(readers > 0, received / readers.clip(1), float("nan")), {}),
        }
        if "sink_mass" in sums:
            seen = ("rows that see the sink", "give the model text")
            about = {"baseline_value": sums.mean("sink_uniform", "sink_rows", *seen).mean()}
            variables["sink_mass"] = (sums.mean("sink_mass", "sink_rows", *seen), about)
        return self._record(variables, chosen=list(self.chosen))


def _sum(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    return x.sum(dims, dtype=precise(x))


def _key_mass_of(call: AttentionCall, rows: Bool[Tensor, "B T"]) -> Float[Tensor, "B H S"]:
    """sum over the marked rows i of A[i,j], in O(T): the operator's own key mass counts padding rows too.

    Key mass is dV for an upstream gradient of one in a single value channel; head r of a group has channel r.
    """
    B, H = call.q.shape[:2]
    G, S = call.k.shape[1:3]
    with torch.inference_mode(False), torch.enable_grad():
        q, k = call.q.detach().clone(), call.k.detach().clone()
        v = q.new_zeros(B, G, S, H // G, requires_grad=True)
        mask = None if call.key_mask is None else call.key_mask.clone()
        sink = call.sink.detach().clone() if isinstance(call.sink, Tensor) else call.sink
        out = gated_attention(**replace(call, q=q, k=k, v=v, gate=None, key_mask=mask, sink=sink).arguments())
        channel = torch.eye(H // G, dtype=q.dtype, device=q.device).repeat(G, 1)
        upstream = channel[None, :, None] * rows.clone()[:, None, :, None]
        (received,) = torch.autograd.grad(out, v, upstream.to(out.dtype))
    return received.transpose(2, 3).reshape(B, H, S)
