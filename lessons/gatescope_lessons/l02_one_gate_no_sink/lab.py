"""The experiment of lesson 02: six variants of attention on bigram-binding, five seeds each.

Checkpoints come from ``python -m gatescope_lessons.l02_one_gate_no_sink.make``; the record comes from them, so anyone
can measure it again in a minute.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.binding import FIRST_QUERY, OPEN_BIAS, TASK, evaluate, held_out, instruments
from gatescope.checkpoints import load_model
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.interventions import BlendGates
from gatescope.models import LMConfig, TinyLM, next_token_nll
from gatescope.probes import Entropy, Sinks
from gatescope.recipes import bigram_config, bigram_train_spec
from gatescope.records import Quantity
from gatescope.scope import Scope
from gatescope.train import Training
from jaxtyping import Int
from torch import Tensor

from gatescope_lessons.verdicts import Terms, Verdict, judge

SEEDS = (0, 1, 2, 3, 4)

VARIANTS: dict[str, LMConfig] = {
    "softmax": bigram_config(),
    "g1_element": bigram_config(gate=GateSpec(position="sdpa", bias_init=OPEN_BIAS)),
    "g1_head": bigram_config(gate=GateSpec(position="sdpa", granularity="head", bias_init=OPEN_BIAS)),
    "g2_element": bigram_config(gate=GateSpec(position="value", bias_init=OPEN_BIAS)),
    "learned_sink": bigram_config(sink="learned"),
    "off_by_one": bigram_config(sink="off_by_one"),
}


def training(
    variant: str, seed: int, *, folder: Path | None = None, watched: bool = False, **changes: int | float
) -> Training:
    """A run of one variant, not started. The same seed gives all variants the same batches and the same weights
    outside their gate or sink.

    folder    where to keep checkpoints and go on from one
    watched   the lesson's instruments are read every 50 steps
    changes   of fields of `TrainSpec`, such as steps or lr

    Raises Refusal for an unknown variant.
    """
    if variant not in VARIANTS:
        raise Refusal("training", f"a variant of {tuple(VARIANTS)}", repr(variant), "choose one of them")
    config, every = VARIANTS[variant], {"record_every": 50} if watched else {}
    spec = bigram_train_spec(seed, **every | changes)
    return Training(config, TASK, spec, probes=instruments(config) if watched else (), folder=folder)


def checkpoint(variant: str, seed: int) -> str:
    """Name in data/ of a trained model."""
    return f"checkpoints/l02/{variant}-s{seed}.safetensors"


def load(variant: str, seed: int = 0) -> TinyLM:
    """A trained model from data/, its digest checked. Raises DataError when the file is missing or changed."""
    return load_model(data.path(checkpoint(variant, seed))).eval()


#: One character a token: BOS, three triggers, 29 ordinary tokens.
ALPHABET = "^ABC" + string.ascii_lowercase + ".,;"


def spell(tokens: Int[Tensor, " T"]) -> str:
    """A sequence as text, one character a token of ALPHABET."""
    return "".join(ALPHABET[token] for token in tokens.tolist())


def read(letters: str) -> Int[Tensor, "1 T"]:
    """Text as a sequence; BOS is put in front, white space is left out.

    Raises Refusal for a character that is no token, or fewer than two letters.
    """
    found = "".join(letters.split()).removeprefix("^")
    unknown = sorted(set(found) - set(ALPHABET[1:]))
    if unknown:
        raise Refusal("read", "letters A B C (triggers), a to z, and . , ;", " ".join(unknown), "type others instead")
    if len(found) < 2:
        raise Refusal("read", "at least two letters", repr(found), "type for instance AxdAx")
    return torch.tensor([[TASK.bos, *map(ALPHABET.index, found)]])


_TOKEN_NLL = Quantity(
    "token_nll",
    ("token",),
    "nats",
    "loss of each token",
    "-log p(token | tokens before it)",
    "tasks.bigram_binding",
    "uniform guessing: log(vocab)",
)


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None, size: int | None = None) -> xr.Dataset:
    """All variants (dim ``variant``) and seeds (dim ``seed``) from their checkpoints. ``quick`` takes one seed."""
    seeds = seeds or (SEEDS if profile != "quick" else SEEDS[:1])
    batch = held_out(size or (128 if profile != "quick" else 32))
    per_variant = [
        records.concat([evaluate(load(variant, seed), *batch) for seed in seeds], dim="seed", labels=list(seeds))
        for variant in VARIANTS
    ]
    return records.concat(per_variant, dim="variant", labels=list(VARIANTS))


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l02_one_gate_no_sink.nc"))


@torch.no_grad()
def read_sequence(model: TinyLM, letters: str, amount: float = 1.0) -> xr.Dataset:
    """Sinks, entropy and ``token_nll`` (loss of each token given those before it) of one typed sequence.

    ``amount`` below 1 blends the model's gates out. Raises UntappableModelError for a model without any.
    """
    tokens = read(letters)
    blended = BlendGates(amount).on(model) if amount < 1 else nullcontext()
    with blended, Scope(model, probes=[Sinks(), Entropy()]) as scope:
        nll = next_token_nll(model, tokens)[0]
    losses = _TOKEN_NLL.variable([np.nan, *nll.tolist()])
    record = scope.record(created=False, T=tokens.shape[1], bos="^ in front")
    record = records.merge([record, records.new({"token_nll": losses})], **record.attrs)
    return record.assign_coords(piece=("token", list(spell(tokens[0]))))


def rise_when_opened(model: TinyLM, tokens: Int[Tensor, "B T"]) -> float:
    """How much first-token attention of the last layer rises when the gate is forced open (score 1)."""
    opened, learned = (
        evaluate_blend(model, tokens, amount).first_attention.isel(layer=-1).max("head") for amount in (0.0, 1.0)
    )
    return float(opened - learned)


@torch.no_grad()
def evaluate_blend(model: TinyLM, tokens: Int[Tensor, "B T"], amount: float) -> xr.Dataset:
    """Sinks of a model whose gates are blended by ``amount``."""
    with BlendGates(amount).on(model), Scope(model, probes=[Sinks(first_query=FIRST_QUERY)]) as scope:
        model(tokens)
    return scope.record(created=False)


def least_helped(record: xr.Dataset) -> str:
    """The variant whose mean first-token attention is largest, plain softmax left out."""
    return max((name for name in VARIANTS if name != "softmax"), key=lambda name: first(record, name).mean())


def judged(record: xr.Dataset, name: str) -> Verdict:
    """The verdict on "this variant lowers first-token attention to less than half"."""
    terms = Terms(
        direction="less", null=1.0, margin=0.5, replicates=3, replicate="seed", metric="first attention ratio"
    )
    return judge(ratio_to_softmax(record, name), terms)


def first(record: xr.Dataset, variant: str) -> np.ndarray:
    """First-token attention of the head that has most, one value a seed."""
    return record.first_attention.sel(variant=variant).max(("layer", "head")).values


def ratio_to_softmax(record: xr.Dataset, variant: str) -> np.ndarray:
    """`first` of a variant over that of plain softmax, seed by seed."""
    return first(record, variant) / first(record, "softmax")


def _massive(record: xr.Dataset, variant: str) -> np.ndarray:
    return record.massive_ratio.sel(variant=variant).isel(layer=-1).values


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    **{
        f"first_attention_{name}_over_softmax": partial(ratio_to_softmax, variant=name)
        for name in VARIANTS
        if name != "softmax"
    },
    "first_attention_g2_minus_g1": lambda record: first(record, "g2_element") - first(record, "g1_element"),
    "loss_g1_element_minus_softmax": lambda record: (
        (record.loss.sel(variant="g1_element") - record.loss.sel(variant="softmax")).values
    ),
    "gate_mean_g1_element": lambda record: (
        record.gate_mean.sel(variant="g1_element").mean(("layer", "gate_head")).values
    ),
    "massive_ratio_g1_element_over_softmax": lambda record: (
        _massive(record, "g1_element") / _massive(record, "softmax")
    ),
}
