"""The experiment of lesson 16: the studies gate-atlas and learning-rates as one record, what is read off it, and the
trained models of lesson 02 on sequences longer than they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records
from gatescope.binding import TASK, instruments
from gatescope.errors import Refusal
from gatescope.intervals import t_interval
from gatescope.models import TinyLM, next_token_nll
from gatescope.recipes import bigram_config, bigram_train_spec
from gatescope.records import Quantity
from gatescope.studies.keeping import kept
from gatescope.studies.points.gate_atlas import GateRun, gate_spec
from gatescope.train import Training
from scipy.stats import spearmanr

from gatescope_lessons.l02_one_gate_no_sink import lab as one_gate

STUDIES = ("gate-atlas", "learning-rates")
RATE = 5e-3
SEEDS = one_gate.SEEDS
#: Tokens of a sequence: as trained, and longer.
LENGTHS = (48, 96, 192, 384)
#: What a gate may be, and what it is when nothing is said.
AXES: dict[str, Any] = {
    "position": "none",
    "granularity": "element",
    "sharing": "per_head",
    "activation": "sigmoid",
    "combine": "multiply",
    "source": "token",
    "n_heads": 1,
}
#: Variants of lesson 02 that are gates of the atlas.
TRAINED = {
    "softmax": {},
    "g1_element": {"position": "sdpa"},
    "g1_head": {"position": "sdpa", "granularity": "head"},
    "g2_element": {"position": "value"},
}
PLACES = ("value", "key", "query", "output")

#: Qiu et al. 2025, tables 1 and 4: what of their table has a counterpart here. 15B parameters, 400B tokens.
PUBLISHED: tuple[tuple[dict[str, Any], dict[str, float]], ...] = (
    ({}, {"perplexity": 6.026, "first_attention": 0.467, "massive": 1053.0}),
    (
        {"position": "sdpa"},
        {"perplexity": 5.761, "gate_mean": 0.116, "first_attention": 0.048, "massive": 94.0},
    ),
    (
        {"position": "sdpa", "granularity": "head"},
        {"perplexity": 5.792, "gate_mean": 0.172, "first_attention": 0.073, "massive": 98.0},
    ),
    (
        {"position": "sdpa", "sharing": "shared", "n_heads": 2},
        {"perplexity": 5.801, "gate_mean": 0.271, "first_attention": 0.301, "massive": 286.0},
    ),
    (
        {"position": "value"},
        {"perplexity": 5.820, "gate_mean": 0.221, "first_attention": 0.297, "massive": 125.0},
    ),
    ({"position": "key"}, {"perplexity": 6.016}),
    ({"position": "query"}, {"perplexity": 5.981}),
    ({"position": "output"}, {"perplexity": 6.017}),
    ({"position": "sdpa", "activation": "silu"}, {"perplexity": 5.822}),
    ({"position": "sdpa", "activation": "silu", "combine": "add"}, {"perplexity": 5.821}),
    (
        {"position": "sdpa", "source": "none"},
        {"perplexity": 5.917, "gate_mean": 0.335, "first_attention": 0.364, "massive": 471.0},
    ),
    (
        {"position": "sdpa", "activation": "non_sparse_sigmoid"},
        {"perplexity": 5.900, "gate_mean": 0.653, "first_attention": 0.451, "massive": 892.0},
    ),
)


def label(config: dict[str, Any]) -> str:
    """A gate in a few words: "no gate", "sdpa, head, silu, added"."""
    full = AXES | config
    if full["position"] == "none":
        words = ["no gate"]
    else:
        words = [full["position"]]
        words += ["head"] if full["granularity"] == "head" else []
        words += ["shared"] if full["sharing"] == "shared" else []
        words += [full["activation"].replace("_", " ")] if full["activation"] != "sigmoid" else []
        words += ["added"] if full["combine"] == "add" else []
        words += ["any token"] if full["source"] == "none" else []
    return ", ".join(words + (["2 heads"] if full["n_heads"] == 2 else []))


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None, size: int | None = None) -> xr.Dataset:
    """The metrics of both studies along ``variant``, ``lr`` and ``seed``, NaN where nothing was trained, and
    ``trigger_loss_at_length`` of lesson 02's models along ``variant``, ``length`` and ``seed``.

    ``quick`` reads the same studies and puts one seed through the longer sequences.
    """
    seeds = seeds or (SEEDS if profile != "quick" else SEEDS[:1])
    longer = lengths(seeds, size or (128 if profile != "quick" else 8))
    return records.merge([atlas([kept(name) for name in STUDIES]), longer], **records.provenance(created=False))


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l16_gate_atlas.nc"))


def atlas(studies: Sequence[xr.Dataset]) -> xr.Dataset:
    """Kept studies as one record along ``variant`` (see `label`), ``lr`` and ``seed``; the fields of a gate are
    coordinates of ``variant``."""
    rows = [
        (study, place, {name: study[name].values[place].item() for name in AXES})
        for study in studies
        for place in range(study.sizes["point"])
    ]
    gates = {label(config): config for _, _, config in rows}
    rates = sorted({float(lr) for study in studies for lr in study.lr.values})
    shape = len(gates), len(rates), len(SEEDS)
    names = list(map(str, studies[0].data_vars))
    values = {name: np.full(shape, np.nan) for name in names}
    where = {name: place for place, name in enumerate(gates)}
    for study, place, config in rows:
        cell = where[label(config)], rates.index(float(study.lr[place])), SEEDS.index(int(study.seed[place]))
        for name in names:
            values[name][cell] = float(study[name][place])
    fields = {name: ("variant", [config[name] for config in gates.values()]) for name in AXES}
    coords = {"variant": list(gates), "lr": rates, "seed": list(SEEDS), **fields}
    dims = ("variant", "lr", "seed")
    found = {name: xr.DataArray(values[name], dims=dims, attrs=studies[0][name].attrs) for name in names}
    return records.new(found).assign_coords(coords)


_AT_LENGTH = Quantity(
    "trigger_loss_at_length",
    ("variant", "length", "seed"),
    "nats",
    "loss where the context holds the answer",
    "-log p(next token), mean over bound positions of sequences of T tokens",
    "tasks.bigram_binding",
    "uniform guessing: log(vocab)",
)


@torch.no_grad()
def lengths(seeds: Sequence[int] = SEEDS, size: int = 128) -> xr.Dataset:
    """Lesson 02's models, trained at 48 tokens, on ``size`` unseen sequences of each of LENGTHS."""
    found = np.empty((len(TRAINED), len(LENGTHS), len(seeds)))
    for row, name in enumerate(TRAINED):
        for column, seed in enumerate(seeds):
            model = one_gate.load(name, seed)
            found[row, :, column] = [loss_at(model, length, size) for length in LENGTHS]
    labels = {"variant": list(map(label, TRAINED.values())), "length": list(LENGTHS), "seed": list(seeds)}
    return records.new({_AT_LENGTH.name: _AT_LENGTH.variable(found, labels, baseline_value=float(np.log(TASK.vocab)))})


@torch.no_grad()
def loss_at(model: TinyLM, length: int, size: int) -> float:
    """Loss over bound positions, nats a token, of ``size`` unseen sequences of ``length`` tokens."""
    tokens, bound = replace(TASK, length=length).batch(20251106, size)
    return float(next_token_nll(model, tokens)[bound[:, :-1]].double().mean())


def gate(record: xr.Dataset, metric: str, lr: float = RATE, **config: Any) -> np.ndarray:
    """One value a seed of a gate, named by what differs from AXES. Raises Refusal for a gate that was not trained."""
    name = label(config)
    if name not in record.variant.values:
        raise Refusal("gate", "a gate of the atlas", name, f"choose one of {', '.join(record.variant.values)}")
    return record[metric].sel(variant=name, lr=lr).values


first = partial(gate, metric="first_attention")


def best_elsewhere(record: xr.Dataset) -> np.ndarray:
    """The lowest first-token attention that a gate at another place than after attention has, seed by seed."""
    return np.min([first(record, position=place) for place in PLACES], 0)


#: A run has learnt the task when its loss where the context holds the answer is below half of that of guessing.
LEARNT = 0.5 * float(np.log(TASK.vocab - 1 - TASK.n_triggers))


def largest_rate(record: xr.Dataset, **config: Any) -> np.ndarray:
    """The largest learning rate at which a gate's run learnt the task, one a seed, over seeds that all rates have; NaN
    where none did. A run that diverged has no number and did not learn."""
    seeds = record.seed.values[: rate_seeds(record)]
    loss = record.trigger_loss.sel(variant=label(config), seed=seeds)
    rates = xr.where(loss < LEARNT, record.lr, np.nan)
    return rates.max("lr").values


def rate_seeds(record: xr.Dataset) -> int:
    """How many seeds were trained beyond the rates of the atlas."""
    beyond = record.trigger_loss.sel(lr=record.lr[record.lr > 1e-2]).notnull().any(("variant", "lr"))
    return int(beyond.sum())


def forgetting(record: xr.Dataset, variant: str, length: int = 192) -> np.ndarray:
    """How much the loss on bound positions rises from the trained length to ``length``, nats, one a seed."""
    at = record.trigger_loss_at_length.sel(variant=variant)
    return (at.sel(length=length) - at.sel(length=LENGTHS[0])).values


def order(record: xr.Dataset) -> np.ndarray:
    """Spearman's correlation, one a seed, of first-token attention here and in the paper, over the published rows that
    share one control."""
    rows = [(config, held["first_attention"]) for config, held in PUBLISHED if "first_attention" in held]
    rows = [(config, value) for config, value in rows if config.get("n_heads", 1) == 1]
    ours = np.array([first(record, **config) for config, _ in rows])
    theirs = [value for _, value in rows]
    return np.array([spearmanr(theirs, ours[:, seed]).statistic for seed in range(ours.shape[1])])


def measured_gates(record: xr.Dataset, metric: str, gates: Sequence[dict[str, Any]], lr: float) -> xr.Dataset:
    """``metric`` along variant and seed, of those ``gates`` that were trained at ``lr`` and have it.

    Raises Refusal when none has, or when all are without it.
    """
    names = [name for name in map(label, gates) if name in record.variant.values]
    found = record[[metric]].sel(variant=names, lr=lr, drop=True).dropna("variant", how="all")
    found = found.dropna("seed", how="all")
    if not found.sizes["variant"]:
        step = f"choose lr = {RATE:g}, at which every gate was trained, or another metric"
        raise Refusal("atlas", f"gates with {metric} at lr = {lr:g}", "none of these", step)
    return found


def against_control(found: xr.Dataset, metric: str, published: str | None) -> pd.DataFrame:
    """Columns gate, mean, difference, low, high, paper: every gate of `measured_gates` minus the one without a gate,
    seed by seed; NaN where there is no such pair, or nothing published."""
    data, theirs = found[metric], {label(config): held for config, held in PUBLISHED}
    names = list(map(str, data.variant.values))
    control = next((name for name in names if name.startswith("no gate")), None)
    rows = []
    for name in names:
        own, difference = data.sel(variant=name), (np.nan, np.nan, np.nan)
        if control is not None and name != control:
            difference = t_interval((own - data.sel(variant=control)).dropna("seed").values)
        number = theirs.get(name, {}).get(published, np.nan) if published else np.nan
        rows.append((name, float(own.mean()), *difference, number))
    return pd.DataFrame(rows, columns=["gate", "mean", "difference", "low", "high", "paper"])


def training(seed: int = 0, steps: int = 1000, **config: Any) -> Training:
    """A run of one gate of the atlas, not started, its instruments read every 50 steps.

    Raises Refusal for a gate that there cannot be.
    """
    run = GateRun(seed=seed, steps=steps, **config)
    model = bigram_config(gate=gate_spec(run), n_heads=run.n_heads)
    spec = bigram_train_spec(seed, lr=run.lr, steps=steps, record_every=50)
    return Training(model, TASK, spec, probes=instruments(model))


def beside(record: xr.Dataset) -> pd.DataFrame:
    """The published table beside ours: one row a gate, means over seeds."""
    rows = []
    for config, held in PUBLISHED:
        row: dict[str, Any] = {"gate": label(config)}
        for name, metric, theirs, ours in (
            ("first_attention", "first_attention", "sink, paper", "sink"),
            ("gate_mean", "gate_mean", "gate, paper", "score"),
            ("massive", "massive_ratio", "M-Act, paper", "ratio"),
            ("perplexity", "loss", "PPL, paper", "loss"),
        ):
            row[theirs] = held.get(name, np.nan)
            row[ours] = float(pd.Series(gate(record, metric, **config)).mean())
        rows.append(row)
    return pd.DataFrame(rows)


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "first_attention_sdpa_minus_best_elsewhere": lambda record: first(record, position="sdpa") - best_elsewhere(record),
    "first_attention_any_token_minus_token": lambda record: (
        first(record, position="sdpa", source="none") - first(record, position="sdpa")
    ),
    "first_attention_non_sparse_minus_sigmoid": lambda record: (
        first(record, position="sdpa", activation="non_sparse_sigmoid") - first(record, position="sdpa")
    ),
    "first_attention_shared_minus_own": lambda record: (
        first(record, position="sdpa", sharing="shared", n_heads=2) - first(record, position="sdpa", n_heads=2)
    ),
    "loss_added_silu_minus_none": lambda record: (
        gate(record, "loss", position="sdpa", activation="silu", combine="add") - gate(record, "loss")
    ),
    "largest_rate_sdpa_over_none_log2": lambda record: np.log2(
        largest_rate(record, position="sdpa") / largest_rate(record)
    ),
    "forgetting_sdpa_minus_none": lambda record: (
        forgetting(record, label({"position": "sdpa"})) - forgetting(record, label({}))
    ),
    "order_of_first_attention": order,
}
