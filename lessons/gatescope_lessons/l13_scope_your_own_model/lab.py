"""The experiment of lesson 13: what the routers of a small mixture of experts do while it learns to read bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.checkpoints import load_model
from gatescope.models import TinyLM, next_token_nll
from gatescope.probes import Routing, saturation
from gatescope.probes._specialisation import mutual_information
from gatescope.recorder import Recorder
from gatescope.records import Quantity
from gatescope.series import measure_series
from gatescope.tasks.text import BYTE_BOS, TEXTS, Bytes
from jaxtyping import Int
from torch import Tensor, nn

from gatescope_lessons.l13_scope_your_own_model.training import RUNS, Loop

SEEDS = (0, 1, 2, 3, 4)
BYTES = RUNS["bytes"]
STEPS = BYTES.spec.steps
#: Where claims on *early in training* are judged: after two fifths of it.
EARLY = 2 * STEPS // 5
RECORD_EVERY = 20
#: Steps of seed 0 whose checkpoints ship; step 0 is drawn from its seed.
SHIPPED = (20, 40, 80, 160, 400)
#: The topics: five crops of each, none of which was trained on.
TOPICS = ("story", "prose", "letter", "recipe", "code")
_CROPS = 5
_SHUFFLES = 20


def held_out() -> tuple[Int[Tensor, "1 T"], Int[Tensor, "1 T"]]:
    """Crops of every topic, each behind a BOS, packed into one sequence, and the document that each token is of."""
    length = Bytes().length
    parts: list[Tensor] = []
    documents: list[int] = []
    for name in TOPICS:
        text = torch.tensor(list(TEXTS[name].text.encode()))
        for crop in range(_CROPS):
            parts += [torch.tensor([BYTE_BOS]), text[crop * (length - 1) : (crop + 1) * (length - 1)]]
            documents += [len(documents) // length] * length
    return torch.cat(parts)[None], torch.tensor(documents)[None]


def forward(model: nn.Module, tokens: Int[Tensor, "1 T"]) -> Tensor:
    """A forward pass on the packed held-out text."""
    return model(tokens, documents=held_out()[1])


def checkpoint(step: int) -> str:
    """Name in data/ of the model of seed 0 after ``step`` steps."""
    return f"checkpoints/l13/bytes-s0-{step:03d}.safetensors"


def load(step: int = STEPS) -> TinyLM:
    """The mixture of experts of seed 0 after ``step`` steps. Raises DataError when its file is missing or changed."""
    model = TinyLM(BYTES.config, init_seed=0) if step == 0 else load_model(data.path(checkpoint(step)))
    return model.eval()


def shipped() -> dict[int, Callable[[], TinyLM]]:
    """Step -> how to open the model of that step: what `measure_series` takes."""
    return {step: partial(load, step) for step in (0, *SHIPPED)}


def probes(model: nn.Module) -> list[Routing]:
    """The lesson's instrument, which keeps the experts of every token."""
    return [Routing(keep=True)]


def record_training(seed: int, steps: int = STEPS, every: int = RECORD_EVERY) -> xr.Dataset:
    """Train one model to ``steps``; what its routers did with the held-out text, a row every ``every`` steps."""
    loop = Loop(BYTES, seed)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(loop.model, probes(loop.model), folder, every, held_out()[0], forward=forward)
        recorder.step(0)
        loop.train(recorder, until=steps)
        return recorder.record.load()


def _quantity(name: str, units: str, long_name: str, formula: str, source: str, baseline: str) -> Quantity:
    return Quantity(name, ("step", "layer"), units, long_name, formula, source, baseline)


_MIXTRAL = "Jiang et al. 2024, section 5"
_OLMOE = "Muennighoff et al. 2024, section 5"
_SATURATION = _quantity(
    "routing_saturation",
    "1",
    "share of a token's experts that are those of the last step",
    "mean over tokens of |topk(t) & topk(final)| / k",
    _OLMOE,
    "k different experts a token, all alike: k/E",
)
_REPETITION = _quantity(
    "repetition",
    "1",
    "consecutive tokens with one first choice, over chance",
    "P(e_i = e_i+1) / sum_e f_e^2, f_e the share of tokens whose first choice is e",
    _MIXTRAL,
    "the same choices in random order: 1",
)
_OF_TOKEN = _quantity(
    "token_information",
    "nats",
    "what the token tells of its first expert",
    "I(expert; byte), less its mean under shuffling",
    "this project, after " + _MIXTRAL,
    "experts shuffled over tokens: 0",
)
_OF_TOPIC = _quantity(
    "topic_information",
    "nats",
    "what the topic tells of the first expert",
    "I(expert; text), less its mean under shuffling",
    "this project, after " + _MIXTRAL,
    "experts shuffled over tokens: 0",
)
_TOGETHER = _quantity(
    "coactivation_largest",
    "1",
    "largest share of an expert's tokens that visit one other expert too",
    "max over i != j of N_ij / N_i",
    _OLMOE,
    "k different experts a token, all alike: about (k - 1) / (E - 1)",
)


def summarised(record: xr.Dataset) -> xr.Dataset:
    """The numbers of the claims, along step and layer, from a record of Routing(keep=True) along step."""
    final, (k, E) = record.isel(step=-1), (record.sizes["choice"], record.sizes["expert"])
    rows = [record.isel(step=at) for at in range(record.sizes["step"])]
    tokens, documents = (x[0].numpy() for x in held_out())
    first = record.token_expert.isel(choice=0).transpose("step", "layer", "token").values.astype(int)
    text = tokens != BYTE_BOS
    topics = documents // _CROPS
    same = text[:-1] & (documents[1:] == documents[:-1])

    def each(measured: Callable[[np.ndarray], float]) -> np.ndarray:
        return np.array([[measured(experts) for experts in layers] for layers in first])

    off = np.where(np.eye(E, dtype=bool), np.nan, record.coactivation.transpose("step", "layer", ...).values)
    found = {
        _SATURATION: np.stack([saturation(row, final).routing_saturation.values for row in rows]),
        _REPETITION: each(lambda e: repetition(e, same)),
        _OF_TOKEN: each(lambda e: information(e[text], tokens[text])),
        _OF_TOPIC: each(lambda e: information(e[text], topics[text])),
        _TOGETHER: np.nanmax(off, axis=(-2, -1)),
    }
    baselines = (k / E, 1.0, 0.0, 0.0, (k - 1) / (E - 1))
    coords = {"step": record["step"].values, "layer": record["layer"].values}
    variables = {
        quantity.name: quantity.variable(values, coords, baseline_value=baseline)
        for (quantity, values), baseline in zip(found.items(), baselines, strict=True)
    }
    kept = record[["load_violation", "router_entropy", "load_entropy", "experts_dead"]]
    return records.merge([kept, records.new(variables)], **record.attrs)


def repetition(experts: Int[np.ndarray, " T"], follows: np.ndarray) -> float:
    """How often a token has the expert of the token before it, over how often it would in random order.

    follows  [T - 1] True where token i and i + 1 are neighbours of one document
    """
    share = np.bincount(experts) / len(experts)
    return float((experts[1:] == experts[:-1])[follows].mean() / np.square(share).sum())


def information(one: Int[np.ndarray, " T"], other: Int[np.ndarray, " T"], shuffles: int = _SHUFFLES) -> float:
    """Mutual information of two labels of the same tokens in nats, less its mean when one of them is shuffled.

    A finite sample has information where there is none, and the more of it the more labels there are: hence the second
    term.
    """
    rng = np.random.default_rng(0)
    chance = np.mean([_information(rng.permutation(one), other) for _ in range(shuffles)])
    return _information(one, other) - float(chance)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    rows, columns = (np.unique(labels, return_inverse=True)[1] for labels in (one, other))
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    return mutual_information(counts)


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None) -> xr.Dataset:
    """`summarised` over seeds (dim ``seed``), each trained from its beginning; ``quick`` measures what ships."""
    if profile == "quick":
        series = measure_series(shipped(), probes, held_out()[0], forward=forward, progress=False)
        return records.concat([summarised(series)], dim="seed", labels=[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        per_seed = [summarised(record_training(seed)) for seed in seeds or SEEDS]
    finally:
        torch.set_num_threads(threads)
    return records.concat(per_seed, dim="seed", labels=list(seeds or SEEDS))


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l13_scope_your_own_model.nc"))


@torch.no_grad()
def loss(model: nn.Module) -> float:
    """Mean loss of the held-out text, nats a byte."""
    tokens, documents = held_out()
    nll = next_token_nll(model, tokens, documents=documents)
    return float(nll.sum() / (documents[:, 1:] == documents[:, :-1]).sum())


#: Answers to: in which layer do most tokens have their final experts early in training?
WHERE = ("in the first", "in the last", "somewhere between", "it makes no difference")


def settled_first(early: xr.DataArray) -> tuple[str, str]:
    """The row of WHERE that saturation(seed, layer) gives, and a sentence with its numbers."""
    mean = early.mean("seed")
    values = mean.values
    numbers = ", ".join(f"layer {int(layer)}: {value:.0%}" for layer, value in zip(mean.layer, values, strict=True))
    at = int(values.argmax())
    answer = WHERE[3] if np.ptp(values) < 0.02 else {0: WHERE[0], len(values) - 1: WHERE[1]}.get(at, WHERE[2])
    return answer, f"Means over {early.sizes['seed']} seeds are {numbers}."


def _last(record: xr.Dataset, name: str) -> xr.DataArray:
    return record[name].isel(step=-1).mean("layer")


def _early(record: xr.Dataset) -> xr.DataArray:
    return record.routing_saturation.sel(step=EARLY).transpose("seed", "layer")


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "repetition_over_chance": lambda r: _last(r, "repetition").values,
    "token_less_topic_information": lambda r: (_last(r, "token_information") - _last(r, "topic_information")).values,
    "saturation_early": lambda r: _early(r).mean("layer").values,
    "saturation_early_last_less_first_layer": lambda r: _early(r).values[:, -1] - _early(r).values[:, 0],
    "coactivation_largest": lambda r: _last(r, "coactivation_largest").values,
}
