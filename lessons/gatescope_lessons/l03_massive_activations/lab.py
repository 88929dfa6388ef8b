"""The experiment of lesson 03: ten small models in search of massive activations, recorded while they train, the law
fitted to every layer, and the formed state in SmolLM2-135M."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records
from gatescope.emergence import (
    FEATURES,
    MODULATED,
    architecture_features,
    predict_left_out,
    r_squared,
)
from gatescope.models.smollm2 import load_smollm2

from gatescope_lessons.l03_massive_activations.fitted import summarised
from gatescope_lessons.l03_massive_activations.formed import SETTINGS, measure_texts
from gatescope_lessons.l03_massive_activations.runs import ARCHITECTURES, ARMS, BASE, record_run

SEEDS = (0, 1, 2)
TEXT_NAMES = ("letter", "recipe", "dialogue", "code", "numbers")
#: Parts of a random split over layers, as in the paper's 80/20.
_PARTS = 5


def measure(
    profile: str = "full", *, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> xr.Dataset:
    """All arms (dim ``variant``) and seeds, and SmolLM2 on five texts. ``quick`` takes one arm, one seed, 96 steps and
    two texts."""
    quick = profile == "quick"
    arms, seeds = arms or ((BASE,) if quick else tuple(ARMS)), seeds or (SEEDS[:1] if quick else SEEDS)
    jobs = [(arm, seed, 96 if quick else None) for arm in arms for seed in seeds]
    if quick:
        runs = [_run(*job) for job in jobs]
    else:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            runs = pool.starmap(_run, jobs, chunksize=1)
    per_arm = [runs[place : place + len(seeds)] for place in range(0, len(runs), len(seeds))]
    small = records.concat([records.concat(own, "seed", list(seeds)) for own in per_arm], "variant", list(arms))
    formed = measure_texts(load_smollm2(), TEXT_NAMES[:2] if quick else TEXT_NAMES)
    for name in ("setting", "layer"):
        labels = pd.unique(np.concatenate([small[name].values, formed[name].values]))
        small, formed = (part.reindex({name: labels}) for part in (small, formed))
    return records.merge([small, formed])


def _run(arm: str, seed: int, steps: int | None) -> xr.Dataset:
    """One run and its fits, on one thread so that it comes out the same beside another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return summarised(record_run(ARMS[arm], seed, steps))
    finally:
        torch.set_num_threads(threads)


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l03_massive_activations.nc"))


def layers_of(variant: str) -> list[int]:
    """The layers that a variant has."""
    return list(range(ARMS[variant].n_layers))


def series(record: xr.Dataset, variant: str, seed: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and ratios of one layer of one run."""
    run = record.sel(variant=variant, seed=seed)
    values = run.massive_ratio.sel(layer=layer).values
    known = np.isfinite(values)
    return run.recorded_step.values[known], values[known]


def search_table(record: xr.Dataset) -> pd.DataFrame:
    """What was tried: the largest ratio and magnitude reached in any layer, step and seed, how many values were massive
    by Sun's rule, and the loss at the end, mean over seeds."""
    rows = {}
    for variant in map(str, record.variant.values):
        run = record.sel(variant=variant)
        rows[variant] = {
            "ratio before": float(run.massive_ratio.isel(point=0).max()),
            "ratio at its largest": float(run.massive_ratio.max()),
            "largest |h|": float(run.magnitude_max.max()),
            "massive": int(run.massive_count.sum()),
            "loss, nats": float(run.train_loss.mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").round(2).rename_axis("tried")


def layer_curves(record: xr.Dataset, variant: str, seed: int) -> xr.Dataset:
    """The ratio of every layer over steps, as ``variant`` of a record that views.curves draws."""
    own = record.sel(variant=variant, seed=seed).massive_ratio.sel(layer=layers_of(variant))
    steps = record.recorded_step.sel(variant=variant, seed=seed).values
    named = own.drop_vars(["variant", "seed"]).assign_coords(point=steps).rename(point="step", layer="variant")
    names = [f"layer {layer}" for layer in layers_of(variant)]
    drawn = named.dropna("step").transpose("variant", "step").assign_coords(variant=names)
    return drawn.to_dataset(name="massive_ratio").assign_attrs(record.attrs)


def _each(record: xr.Dataset, number: Callable[[xr.Dataset, str], float], arms: Sequence[str]) -> np.ndarray:
    """Mean over ``arms`` of a number of one run, one value a seed."""
    runs = [[number(record.sel(variant=arm, seed=seed), arm) for arm in arms] for seed in record.seed.values]
    return np.mean(runs, axis=1)


def _deep(record: xr.Dataset) -> list[str]:
    """The arms in which first, middle and last layers can be told apart."""
    return [str(arm) for arm in record.variant.values if ARMS[str(arm)].n_layers >= 4]


def _mean_over_series(record: xr.Dataset, values: xr.DataArray) -> np.ndarray:
    return values.mean(("variant", "layer")).transpose("seed").values


def beats(record: xr.Dataset, rival: str) -> np.ndarray:
    """Share of all series in which the law has the lower AIC, one value a seed."""
    aic = record.law_aic
    better = (aic.sel(law=MODULATED) < aic.sel(law=rival)).where(aic.sel(law=rival).notnull())
    return _mean_over_series(record, better)


def after_over(record: xr.Dataset, rival: xr.DataArray) -> np.ndarray:
    """log10 of the law's error on the last third of the training over a rival's, mean over series."""
    own = record.held_out.sel(setting="after", law=MODULATED)
    return _mean_over_series(record, np.log10(own / rival))


def _middle_less_ends(values: np.ndarray) -> float:
    return float(values[1:-1].mean() - values[[0, -1]].mean())


def _peak_share(run: xr.Dataset, arm: str) -> float:
    ratio = run.massive_ratio.sel(layer=layers_of(arm)).transpose("layer", "point").values
    steps = run.recorded_step.values
    peaks = steps[np.nanargmax(ratio, axis=1)] / np.nanmax(steps)
    return _middle_less_ends(peaks)


def _middle(run: xr.Dataset, arm: str) -> float:
    return _middle_less_ends(np.log10(_final(run, arm)))


def _final(run: xr.Dataset, arm: str) -> np.ndarray:
    return run.massive_ratio.sel(layer=layers_of(arm)).dropna("point").isel(point=-1).values


def _growth(run: xr.Dataset, arm: str) -> float:
    return float(np.log10(_final(run, arm).max() / run.massive_ratio.isel(point=0).max()))


def _one_head_over_four(record: xr.Dataset) -> np.ndarray:
    means = [
        np.log10(_each(record, lambda run, arm: float(_final(run, arm).mean()), [arm])) for arm in (BASE, "4 heads")
    ]
    return means[0] - means[1]


def architecture_rows(record: xr.Dataset, seed: int, parameter: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n features], the fitted parameter [n] and the architecture [n] of every layer of ARCHITECTURES."""
    rows = [(arm, layer) for arm in ARCHITECTURES if arm in record.variant for layer in layers_of(arm)]
    features = []
    for arm, layer in rows:
        own = ARMS[arm]
        shape = {"n_layers": own.n_layers, "d_model": own.d_model, "n_heads": own.n_heads, "hidden": own.hidden}
        features.append([architecture_features(layer, **shape)[name] for name in FEATURES])
    values = record.law_parameter.sel(seed=seed, parameter=parameter)
    targets = [float(values.sel(variant=arm, layer=layer)) for arm, layer in rows]
    return np.array(features), np.array(targets), np.array([arm for arm, _ in rows])


def foretold(record: xr.Dataset, parameter: str, split: str) -> np.ndarray:
    """R^2 of a parameter predicted from architecture, one value a seed: ``split`` "layers" draws layers at random, as
    the paper does; "architectures" leaves one out at a time."""
    found = []
    for seed in record.seed.values:
        features, targets, arms = architecture_rows(record, int(seed), parameter)
        parts = np.random.default_rng(int(seed)).permutation(len(targets)) % _PARTS
        found.append(r_squared(targets, predict_left_out(features, targets, parts if split == "layers" else arms)))
    return np.array(found)


def nll(record: xr.Dataset, setting: str) -> np.ndarray:
    """Loss of SmolLM2 under a setting, one value a text."""
    return record.nll.sel(setting=setting).values


def largest_block_share(record: xr.Dataset) -> np.ndarray:
    """The most that one block adds to the place of the largest value, over that value; one value a text."""
    added = np.abs(record.written_attention + record.written_mlp).max("layer")
    return (added / np.abs(record.formed_value).max("layer")).values


def share_left_at_mean(record: xr.Dataset) -> np.ndarray:
    """Loss added by the mean of other texts over the loss added by zero; one value a text."""
    full, zeroed, mean = (nll(record, setting) for setting in (SETTINGS[0], SETTINGS[1], SETTINGS[4]))
    return (mean - full) / (zeroed - full)


#: Name in claims/*.toml -> one effect a seed, or a text.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "law_r2": lambda r: _mean_over_series(r, r.law_r2.sel(law=MODULATED)),
    "aic_share_law_below_second_order": partial(beats, rival="second order"),
    "log10_error_after_law_over_last_value": lambda r: after_over(r, r.held_out_last),
    "log10_ratio_end_over_start": lambda r: _each(r, _growth, list(map(str, r.variant.values))),
    "log10_ratio_middle_over_ends": lambda r: _each(r, _middle, _deep(r)),
    "peak_middle_less_ends": lambda r: _each(r, _peak_share, _deep(r)),
    "steady_r2_random_layers": partial(foretold, parameter="steady", split="layers"),
    "steady_r2_new_architecture": partial(foretold, parameter="steady", split="architectures"),
    "log10_ratio_one_head_over_four": _one_head_over_four,
    "largest_block_share": largest_block_share,
    "damage_left_at_mean_of_other_texts": share_left_at_mean,
}
