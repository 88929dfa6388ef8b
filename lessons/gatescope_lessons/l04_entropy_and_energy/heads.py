"""Heads of SmolLM2 as memories: how many keys they read, what beta does to them, and how low their entropy may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.interventions import AddSink, Intervention, ScaleLogits
from gatescope.models import next_token_nll
from gatescope.models.smollm2 import Pretrained
from gatescope.normalisers import entropy, entropy_floor, normalise
from gatescope.probes import Entropy, Probe, Sinks, StateSize
from gatescope.records import Quantity
from gatescope.scope import Scope
from gatescope.taps import AttentionCall, Event, Handler, attached
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_lessons.l04_entropy_and_energy.memories import VARIANTS

#: Factors on the logits of every head; 1 is the model as it is.
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Rows from here on see 32 keys or more, so that all four classes have room.
FIRST_QUERY = 32
_RAMSAUER = "Ramsauer et al. 2020 (arXiv 2008.02217)"
_ZHAI = "Zhai et al. 2023 (arXiv 2303.06296), theorem 3.1"
_MAP = ("layer", "head")

_ROWS = f"mean over rows from {FIRST_QUERY}"
_LOSS = Quantity(
    "nll",
    ("beta",),
    "nats",
    "next-token loss",
    "-log p(next token), every logit of attention times beta",
    _RAMSAUER,
    "uniform guessing: log(vocab)",
)
_CONTROL = Quantity(
    "nll_control",
    ("beta",),
    "nats",
    "next-token loss, queries moved as far at random",
    "-log p(next token), every query moved by |beta - 1| |q| in a random direction",
    "control of ScaleLogits",
    "uniform guessing: log(vocab)",
)
_MEAN_ENTROPY = Quantity(
    "mean_entropy",
    ("beta",),
    "1",
    "normalised entropy, mean over heads",
    "mean over layers, heads and rows of H_i / log n_i, every logit of attention times beta",
    "Shannon 1948",
    "uniform attention: 1",
)
_MODES = Quantity(
    "mode_heads",
    ("beta", "mode"),
    "1",
    "share of heads by class",
    "share of heads whose median row is in a class of StateSize, every logit of attention times beta",
    _RAMSAUER,
    "uniform attention: all in class I",
)
_FIRST_SINK = Quantity(
    "first_attention_swapped",
    ("setting",),
    "1",
    "attention to the first token",
    "mean over layers, heads and rows i >= 1 of A[i,0]",
    "Gu et al. 2024",
    "uniform causal attention: mean over the same rows of 1/(i+1)",
)
_LOSS_SINK = Quantity(
    "nll_swapped",
    ("setting",),
    "nats",
    "next-token loss",
    "-log p(next token), softmax exchanged in the finished model",
    "Miller 2023, Attention Is Off By One",
    "uniform guessing: log(vocab)",
)
_NORM = Quantity("logit_norm", _MAP, "1", "norm of a row of logits", f"{_ROWS} of |s_i - mean(s_i)|", _ZHAI, "none: 0")
_OWN = Quantity("row_entropy", _MAP, "nats", "row entropy", f"{_ROWS} of H_i", "Shannon 1948", "uniform: log n_i")
_FLOOR = Quantity(
    "floor_of_norm",
    _MAP,
    "nats",
    "least entropy that logits of this norm allow",
    f"{_ROWS} of the bound at |s_i - mean(s_i)|",
    _ZHAI,
    "logits of 0: log n_i",
)
_SPECTRAL = Quantity(
    "floor_of_spectrum",
    _MAP,
    "nats",
    "least entropy by query norm and spectral norm of the keys",
    f"{_ROWS} of the bound at scale |q_i| |K - mean(K)|_2",
    _ZHAI,
    "logits of 0: log n_i",
)
_SHORTFALL = Quantity(
    "floor_shortfall",
    (),
    "nats",
    "largest amount by which an entropy lies below its bound",
    "max over layers, heads and rows of the bound minus H_i",
    _ZHAI,
    "a bound that holds: 0 or less",
)


class LogitNorms(Handler):
    """Entropy of every row of short sequences and the bounds on it, means over rows from FIRST_QUERY on.

    Holds [H T T] of one layer at a time: for the lesson's texts, not for long ones.
    """

    sites = frozenset({"attention"})

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {name: [] for name in ("norm", "own", "floor", "spectral")}
        self.shortfall = -math.inf

    def watch(self, event: Event) -> None:
        """One layer."""
        call = event.value
        scores = logits(call)
        T = scores.shape[-1]
        see = torch.ones(T, T, dtype=torch.bool).tril()
        n = see.sum(-1)
        own = entropy(scores.masked_fill(~see, -torch.inf).softmax(-1))
        centred = (scores - (scores * see).sum(-1, keepdim=True) / n[:, None]) * see
        norm = centred.norm(dim=-1)
        # The keys a row sees are a part of K; their own mean removed leaves no more than another vector removed.
        k = call.k[0].double()
        spread = torch.linalg.matrix_norm(k - k.mean(1, keepdim=True), ord=2).repeat_interleave(len(scores) // len(k))
        scale = call.q.shape[-1] ** -0.5 if call.scale is None else call.scale
        spectral = scale * call.q[0].double().norm(dim=-1) * spread[:, None]
        floor, low = entropy_floor(norm, n), entropy_floor(spectral, n)
        self.shortfall = max(self.shortfall, float((floor - own).max()), float((low - own).max()))
        for name, values in (("norm", norm), ("own", own), ("floor", floor), ("spectral", low)):
            self.rows[name].append(values[:, FIRST_QUERY:].mean(-1).numpy())


@torch.no_grad()
def read(
    model: torch.nn.Module, tokens: Int[Tensor, "1 T"], probes: Sequence[Probe], change: Intervention | None = None
) -> tuple[xr.Dataset, float]:
    """What probes see of a text, and its loss in nats a token, under a change if one is given."""
    scope = Scope(model, probes=list(probes))
    if change is None:
        with scope:
            nll = next_token_nll(model, tokens)
    else:
        with change.on(model), scope:
            nll = next_token_nll(model, tokens)
    return scope.record(created=False), float(nll.mean())


def at_factor(model: torch.nn.Module, tokens: Int[Tensor, "1 T"], factor: float) -> tuple[xr.Dataset, float]:
    """Operating modes and entropy of every head with its logits multiplied, and the loss."""
    return read(model, tokens, [StateSize(first_query=FIRST_QUERY), Entropy()], ScaleLogits(factor))


def measure_text(pretrained: Pretrained, text: str, factors: Sequence[float] = FACTORS) -> xr.Dataset:
    """Everything about one text."""
    model, tokens = pretrained.model, pretrained.tokenizer.prepare(text)
    found = [at_factor(model, tokens, factor) for factor in factors]
    control = [read(model, tokens, [Entropy()], ScaleLogits(factor).control(0))[1] for factor in factors]
    plain = found[list(factors).index(1.0)][0]
    rest, _ = read(model, tokens, [StateSize(first_query=FIRST_QUERY, skip=(0,))])
    swapped = [read(model, tokens, [Sinks()], change) for change in (None, AddSink(0.0))]
    norms = LogitNorms()
    with torch.no_grad(), attached(model, norms):
        model(tokens)
    layers = {"layer": plain.layer.values}
    beta = {"beta": list(factors)}
    settings = {"setting": ["softmax", "off by one"]}
    shares = [[float((r.operating_mode == mode).mean()) for mode in (1, 2, 3, 4)] for r, _ in found]
    first = [float(r.first_attention.mean()) for r, _ in swapped]
    variables = {
        "nll": _LOSS.variable([nll for _, nll in found], beta),
        "nll_control": _CONTROL.variable(control, beta),
        "mean_entropy": _MEAN_ENTROPY.variable([float(r.entropy_normalised.mean()) for r, _ in found], beta),
        "mode_heads": _MODES.variable(shares, {**beta, "mode": plain.mode.values}),
        "first_attention_swapped": _FIRST_SINK.variable(first, settings),
        "nll_swapped": _LOSS_SINK.variable([nll for _, nll in swapped], settings),
        "logit_norm": _NORM.variable(norms.rows["norm"], layers),
        "row_entropy": _OWN.variable(norms.rows["own"], layers),
        "floor_of_norm": _FLOOR.variable(norms.rows["floor"], layers),
        "floor_of_spectrum": _SPECTRAL.variable(norms.rows["spectral"], layers),
        "floor_shortfall": _SHORTFALL.variable(norms.shortfall),
    }
    kept = [plain[["state_size", "state_share", "operating_mode"]], renamed(rest), records.new(variables)]
    return records.merge(kept, T=tokens.shape[1])


def renamed(rest: xr.Dataset) -> xr.Dataset:
    """What `StateSize` saw of all keys but the first, under names of its own."""
    names = {name: f"{name}_rest" for name in ("state_size", "state_share", "operating_mode")}
    return rest[list(names)].rename(names)


def exchanged(model: torch.nn.Module, tokens: Int[Tensor, "1 T"], layer: int) -> pd.DataFrame:
    """What each normaliser would make of the logits of one layer, the others as they are: means over heads and rows.

    Columns: normalised entropy, weight on the first token, sum of the weights, share of the weights that are 0.
    Raises Refusal for a layer that the model does not have.
    """
    kept = Kept(layer)
    with torch.no_grad(), attached(model, kept):
        model(tokens)
    if kept.scores is None:
        raise Refusal("exchanged", "a layer of the model", str(layer), "count layers from 0")
    rows = {}
    for name, spec in VARIANTS.items():
        # One length of row after another: sorting and the bias of the sigmoid must not count keys of the future.
        weights = [normalise(kept.scores[:, row, : row + 1], spec) for row in range(FIRST_QUERY, tokens.shape[1])]
        columns = {
            "normalised entropy": [entropy(w) / math.log(w.shape[-1]) for w in weights],
            "weight on the first token": [w[:, 0] for w in weights],
            "sum of the weights": [w.sum(-1) for w in weights],
            "share that is exactly 0": [(w == 0).double().mean(-1) for w in weights],
        }
        rows[name] = {column: round(float(torch.stack(values).mean()), 3) for column, values in columns.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("normaliser")


class Kept(Handler):
    """The logits of one layer of a short text, [H T T], keys of the future included."""

    sites = frozenset({"attention"})

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.scores: Tensor | None = None

    def watch(self, event: Event) -> None:
        """Keep the layer that was asked for."""
        if event.layer == self.layer:
            self.scores = logits(event.value)


def logits(call: AttentionCall) -> Float[Tensor, "H T T"]:
    """scale q k^T of the one sequence of a call, every query head, float64."""
    q = call.q[0].double()
    k = call.k[0].double().repeat_interleave(len(q) // call.k.shape[1], 0)
    return (q.shape[-1] ** -0.5 if call.scale is None else call.scale) * q @ k.mT
