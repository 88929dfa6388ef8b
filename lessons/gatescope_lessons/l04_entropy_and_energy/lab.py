"""The experiment of lesson 04: memories of digits and of random patterns, small models in training, heads of SmolLM2.

Memories and training repeat over seeds, heads over texts; one record holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records
from gatescope.models.smollm2 import load_smollm2
from gatescope.tasks.text import TEXTS
from scipy.stats import spearmanr

from gatescope_lessons.l04_entropy_and_energy.collapse import RATES, measure_training
from gatescope_lessons.l04_entropy_and_energy.heads import measure_text
from gatescope_lessons.l04_entropy_and_energy.memories import BETAS, measure_digits, measure_sphere

SEEDS = (0, 1, 2, 3, 4)
#: Texts of 90 tokens or more.
READ = ("story", "prose", "letter", "recipe", "dialogue")
#: Where memories of digits are judged: one update retrieves most of them, and it is not yet a search for the nearest.
SHARP = 64.0
#: Of SmolLM2's 30 layers as many as two of BERT's twelve are, and those above two thirds.
FIRST_LAYERS, HIGHER_LAYERS = 5, 10


def measure(
    profile: str = "full", *, seeds: Sequence[int] | None = None, texts: Sequence[str] | None = None
) -> xr.Dataset:
    """All of it, along ``seed`` and ``text``. ``quick`` takes one seed, two texts, few betas and a short training."""
    quick = profile == "quick"
    seeds, texts = seeds or (SEEDS[:1] if quick else SEEDS), texts or (READ[:2] if quick else READ)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        own = [_of_seed(seed, quick) for seed in seeds]
        pretrained = load_smollm2()
        read = [measure_text(pretrained, TEXTS[name].text) for name in texts]
    finally:
        torch.set_num_threads(threads)
    of_seeds = records.concat(own, dim="seed", labels=list(seeds))
    of_texts = records.concat(read, dim="text", labels=list(texts))
    return records.merge([of_seeds, of_texts])


def _of_seed(seed: int, quick: bool) -> xr.Dataset:
    if not quick:
        return records.merge([measure_digits(seed), measure_sphere(seed), measure_training(seed)])
    parts = [
        measure_digits(seed, BETAS[::2]),
        measure_sphere(seed, (12, 16, 20), (4, 16, 64, 256)),
        measure_training(seed, RATES, steps=20, every=10),
    ]
    return records.merge(parts)


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l04_entropy_and_energy.nc"))


def swept(record: xr.Dataset, *names: str, variants: Sequence[str] | None = None) -> xr.Dataset:
    """These variables at the betas at which they were measured, for figures."""
    own = record[list(names)].dropna("beta", how="all")
    return own if variants is None else own.sel(variant=list(variants))


def kinds(record: xr.Dataset) -> xr.Dataset:
    """Share of softmax states of each kind of fixed point over beta, the kinds as lines of one figure."""
    own = swept(record, "kind_share").kind_share.sel(variant="softmax", drop=True)
    return own.rename(fixed_point="variant").to_dataset()


def losses(record: xr.Dataset) -> xr.Dataset:
    """The loss at every factor on the logits, beside that of queries moved as far at random."""
    own = swept(record, "nll", "nll_control")
    lines = xr.concat([own.nll, own.nll_control], xr.IndexVariable("variant", ["logits times beta", "control"]))
    return lines.rename("loss").assign_attrs(own.nll.attrs).to_dataset()


def training_curves(record: xr.Dataset, name: str) -> xr.Dataset:
    """A number of the small models over training steps, the learning rates as lines of one figure."""
    own = record[[name]].rename(lr="variant")
    return own.assign_coords(variant=[f"learning rate {rate:g}" for rate in own.variant.values])


def floors(record: xr.Dataset) -> pd.DataFrame:
    """Entropy by layer beside the least that its logits allow, nats, means over texts and heads."""
    names = {
        "row_entropy": "entropy",
        "floor_of_norm": "least for logits of this norm",
        "floor_of_spectrum": "least by norms of query and keys",
        "logit_norm": "norm of a row of logits",
    }
    means = {words: record[name].mean(("text", "head")).values for name, words in names.items()}
    return pd.DataFrame(means, index=pd.Index(record.layer.values, name="layer")).round(3)


def comparison(record: xr.Dataset, beta: float = 8.0) -> pd.DataFrame:
    """What each normaliser makes of half a digit and 100 patterns, means over seeds: zeros, sum, patterns read, and
    what it retrieves, at ``beta`` and at SHARP."""
    rows = {}
    for variant in record.variant.values:
        at, sharp = (record.sel(variant=variant, beta=b).mean("seed") for b in (beta, SHARP))
        rows[str(variant)] = {
            f"zeros at beta {beta:g}": f"{float(at.zeros):.0%}",
            f"sum of weights at beta {beta:g}": f"{float(at.weight_sum):.3f}",
            f"read at rest, of 100, at beta {beta:g}": f"{100 * float(at.memory_share):.0f}",
            f"retrieved by one update at beta {SHARP:g}": f"{float(sharp.retrieved):.0%}",
            "of them without any error": f"{float(sharp.exact):.0%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("normaliser")


def _memory(record: xr.Dataset, name: str, variant: str = "softmax", beta: float | None = None) -> np.ndarray:
    own = record[name].sel(variant=variant).transpose("seed", "beta", ...)
    return (own if beta is None else own.sel(beta=beta)).values


def _smallest_of_three(record: xr.Dataset) -> np.ndarray:
    """Of the shares global at the smallest beta, metastable at its best, single at the largest, the smallest."""
    kinds = record.kind_share.sel(variant="softmax").dropna("beta", how="all").transpose("seed", "beta", "fixed_point")
    average, some, single = (kinds.sel(fixed_point=kind).values for kind in ("global", "metastable", "single"))
    return np.min([average[:, 0], some.max(1), single[:, -1]], axis=0)


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of a straight line, and the standard deviation of what it leaves."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float((y - slope * x - intercept).std())


def _capacities(record: xr.Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    rows = record.capacity.transpose("seed", "dimension").values
    return [(record.dimension.values, np.log(row)) for row in rows]


def _layers(record: xr.Dataset, name: str) -> np.ndarray:
    return record[name].transpose("text", "layer", "head").values


def _higher(record: xr.Dataset, name: str) -> np.ndarray:
    """Share of heads of the higher layers in classes II and III, one value a text."""
    modes = _layers(record, name)[:, HIGHER_LAYERS:]
    return np.isin(modes, (2, 3)).mean((1, 2))


def _norm_and_entropy(record: xr.Dataset) -> np.ndarray:
    norm, own = _layers(record, "logit_norm"), _layers(record, "row_entropy")
    return np.array([spearmanr(n.ravel(), h.ravel()).statistic for n, h in zip(norm, own, strict=True)])


def _high_over_low(record: xr.Dataset, name: str) -> np.ndarray:
    """A number of training at the high learning rate over the ordinary one."""
    own = record[name].sel(lr=list(RATES))
    own = own.min("step") if "step" in own.dims else own
    return (own.sel(lr=RATES[1]) / own.sel(lr=RATES[0])).values


#: Name in claims/*.toml -> one effect a seed or text.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "left_after_one_update": lambda r: _memory(r, "left", beta=SHARP),
    "largest_log10_error_over_bound": lambda r: r.log10_error_over_bound.values,
    "error_exponent": lambda r: r.error_exponent.values,
    "smallest_share_of_three_kinds": _smallest_of_three,
    "capacity_exponent": lambda r: np.array([_fit(d, log_n)[0] for d, log_n in _capacities(r)]),
    "capacity_misfit_exponential_over_power": lambda r: np.array(
        [_fit(d, log_n)[1] / _fit(np.log(d), log_n)[1] for d, log_n in _capacities(r)]
    ),
    "state_share_first_minus_other_layers": lambda r: (
        _layers(r, "state_share")[:, :FIRST_LAYERS].mean((1, 2))
        - _layers(r, "state_share")[:, FIRST_LAYERS:].mean((1, 2))
    ),
    "metastable_heads_of_higher_layers": lambda r: _higher(r, "operating_mode"),
    "exact_entmax_minus_softmax": lambda r: (
        _memory(r, "exact", "1.5-entmax", SHARP) - _memory(r, "exact", "softmax", SHARP)
    ),
    "zeros_of_sparsemax": lambda r: _memory(r, "zeros", "sparsemax", 8.0),
    "support_sparsemax_over_entmax": lambda r: (
        (1 - _memory(r, "zeros", "sparsemax", 8.0)) / (1 - _memory(r, "zeros", "1.5-entmax", 8.0))
    ),
    "largest_floor_shortfall": lambda r: r.floor_shortfall.values,
    "rank_correlation_of_norm_and_entropy": _norm_and_entropy,
    "lowest_entropy_high_over_low_rate": lambda r: _high_over_low(r, "lowest_entropy"),
    "trigger_loss_high_minus_low_rate": lambda r: (
        (r.train_trigger_loss.sel(lr=RATES[1]) - r.train_trigger_loss.sel(lr=RATES[0])).isel(step=-1).values
    ),
    "roughness_high_over_low_rate": lambda r: _high_over_low(r, "loss_roughness"),
}
