"""The experiment of lesson 09: maximum likelihood on data from known mixtures, at growing n, errors by Voronoi cell.

A seed is a set of data sets of its own; within it errors are medians over the data sets, and its rate is one number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records
from gatescope.mixtures import fisher_information
from gatescope.mixtures.cases import Case, draw
from gatescope.mixtures.trials import EM_STEPS, QUANTITIES, REPLICATES, STAGES, errors, fit_case
from gatescope.mixtures.voronoi import GROUPS
from gatescope.rates import rate
from gatescope.records import Quantity

from gatescope_lessons.l09_what_a_router_can_know.cases import CASES

SEEDS = (0, 1, 2, 3, 4)
SIZES = (250, 800, 2500, 8000)
_INFORMATION_SAMPLES = 4000
_RUNS = ("sample_size", "setting")
#: The errors of a trial, along the runs.
_ERRORS = tuple(replace(quantity, dims=(*_RUNS, *quantity.dims)) for quantity in QUANTITIES)
_GAIN = Quantity(
    "gain",
    ("sample_size",),
    "nats",
    "log-likelihood that L-BFGS found beyond EM",
    "sum over samples of log p after L-BFGS, minus after EM; median",
    "measured",
    "EM at the top: 0",
)
_INFORMATION = Quantity(
    "information_smallest",
    (),
    "1",
    "smallest eigenvalue of the Fisher information",
    "min eig of mean(score score^T) at the truth, not below 1e-18",
    "Nguyen et al. 2024 (arXiv 2401.13875)",
    "a direction that no data can tell: 0",
)


def smallest_information(case: Case, seed: int) -> float:
    """The smallest eigenvalue of the Fisher information at the truth, from samples of their own."""
    x, y = draw(case.truth, _INFORMATION_SAMPLES, 1, torch.Generator().manual_seed(7919 + seed))
    found = torch.linalg.eigvalsh(fisher_information(case.truth, x, y))
    return float(found.min().clamp_min(1e-18))


def measure_case(case: Case, seed: int, sizes: Sequence[int] = SIZES, replicates: int = REPLICATES) -> xr.Dataset:
    """All errors of one case and seed over ``sizes`` and stages."""
    fits = [fit_case(case, n, seed, replicates) for n in sizes]
    rows = [[errors(case, stages[name]) for name in STAGES] for stages in fits]
    coords = {"sample_size": list(sizes), "setting": list(STAGES), "parameter": list(GROUPS)}
    variables = {
        quantity.name: quantity.variable(
            np.array([[cell[quantity.name] for cell in row] for row in rows]),
            {dim: coords[dim] for dim in quantity.dims},
        )
        for quantity in _ERRORS
    }
    gains = [float((stages[STAGES[1]].log_likelihood - stages[STAGES[0]].log_likelihood).median()) for stages in fits]
    variables["gain"] = _GAIN.variable(gains, {"sample_size": list(sizes)})
    variables["information_smallest"] = _INFORMATION.variable(smallest_information(case, seed))
    return records.new(variables, replicates=replicates, em_steps=EM_STEPS)


def measure(
    profile: str = "full",
    *,
    cases: Sequence[str] = tuple(CASES),
    seeds: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    replicates: int | None = None,
) -> xr.Dataset:
    """All cases (dim ``variant``) and seeds. ``quick`` takes one seed, two small sizes and six data sets."""
    quick = profile == "quick"
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    sizes, replicates = sizes or ((250, 1000) if quick else SIZES), replicates or (6 if quick else REPLICATES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        per_case = [
            records.concat(
                [measure_case(CASES[name], seed, sizes, replicates) for seed in seeds], dim="seed", labels=list(seeds)
            )
            for name in cases
        ]
    finally:
        torch.set_num_threads(threads)
    return records.concat(per_case, dim="variant", labels=list(cases))


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l09_what_a_router_can_know.nc"))


def rates(record: xr.Dataset, variable: str, variant: str, stage: str = STAGES[1], **select: str) -> np.ndarray:
    """The exponent of n of an error, one value a seed."""
    own = record[variable].sel(variant=variant, setting=stage, **select).transpose("seed", "sample_size")
    return np.array([rate(own.sample_size.values, values) for values in own.values])


def still_falls(record: xr.Dataset, variant: str) -> bool:
    """Whether the Hellinger distance at the largest n is below half that at the smallest, in every seed."""
    own = record.hellinger.sel(variant=variant, setting=STAGES[1])
    return bool((own.isel(sample_size=-1) < 0.5 * own.isel(sample_size=0)).all())


def side_by_side(errors: Mapping[str, xr.DataArray], long_name: str, note: str) -> xr.Dataset:
    """Errors over (seed, sample_size) as the variable ``error`` of one record, along ``variant``, for views."""
    joined = xr.concat(
        [error.drop_vars(["variant", "parameter", "setting"], errors="ignore") for error in errors.values()],
        xr.IndexVariable("variant", list(errors)),
        combine_attrs="drop",
    )
    joined.attrs = {"units": "1", "long_name": long_name, "note": note, "baseline": "the truth itself: 0"}
    return joined.to_dataset(name="error")


def optimiser_table(record: xr.Dataset) -> pd.DataFrame:
    """Per case at the smallest and largest n, means over seeds: the share of fits that had not come to rest when EM or
    L-BFGS ended, and the log-likelihood that L-BFGS gained."""
    capped, gain = record.capped.mean("seed"), record.gain.mean("seed")
    rows = {
        (str(variant), int(n)): {
            "EM not at rest": f"{float(capped.sel(variant=variant, sample_size=n, setting=STAGES[0])):.0%}",
            "L-BFGS not at rest": f"{float(capped.sel(variant=variant, sample_size=n, setting=STAGES[1])):.0%}",
            "gained by L-BFGS, nats": f"{float(gain.sel(variant=variant, sample_size=n)):.3f}",
        }
        for variant in record.variant.values
        for n in record.sample_size.values[[0, -1]]
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["case", "n"])


def _shared(
    record: xr.Dataset, variant: str, parameters: Sequence[str] = ("slope", "intercept", "scale")
) -> np.ndarray:
    """Mean exponent of these parameters in shared cells, one value a seed."""
    return np.mean([rates(record, "error_shared", variant, parameter=name) for name in parameters], axis=0)


def _largest(record: xr.Dataset, variant: str) -> np.ndarray:
    return record.hellinger.sel(variant=variant, setting=STAGES[1]).isel(sample_size=-1).values


def _ratio(record: xr.Dataset, above: str, below: str) -> np.ndarray:
    return _largest(record, above) / _largest(record, below)


def _information(record: xr.Dataset) -> np.ndarray:
    smallest = record.information_smallest
    return np.log10((smallest.sel(variant="temperature, linear") / smallest.sel(variant="temperature, tanh")).values)


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "rate_voronoi_dense_exact": partial(rates, variable="voronoi_loss", variant="dense exact"),
    "rate_shared_dense_over": partial(_shared, variant="dense over"),
    "rate_hellinger_dense_over": partial(rates, variable="hellinger", variant="dense over"),
    "rate_voronoi_top2_exact": partial(rates, variable="voronoi_loss", variant="top-2 exact"),
    "rate_hellinger_top2_over_k3": partial(rates, variable="hellinger", variant="top-2 over, K = 3"),
    "rate_shared_top2_over_k3": partial(_shared, variant="top-2 over, K = 3"),
    "rate_shared_first_minus_second_top2_over_k3": lambda r: (
        _shared(r, "top-2 over, K = 3", ("gate slope", "intercept"))
        - _shared(r, "top-2 over, K = 3", ("slope", "scale"))
    ),
    "hellinger_k2_over_k3_dense_over": partial(_ratio, above="dense over, K = 2", below="dense over"),
    "hellinger_k2_over_k3_top2_over": partial(_ratio, above="top-2 over, K = 2", below="top-2 over, K = 3"),
    "rate_temperature_linear": partial(rates, variable="error_temperature", variant="temperature, linear"),
    "rate_temperature_tanh": partial(rates, variable="error_temperature", variant="temperature, tanh"),
    "rate_hellinger_linear": partial(rates, variable="hellinger", variant="temperature, linear"),
    "log10_information_linear_over_tanh": _information,
}
