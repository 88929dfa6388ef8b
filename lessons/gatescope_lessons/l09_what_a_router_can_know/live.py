"""One data set and its fit, as a record that views can draw: what the panel of lesson 09 shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.mixtures import GaussianMoE, RouterSpec, fit_em, hellinger, voronoi_cells
from gatescope.mixtures.cases import DENSE, HALF, SPARSE, Case, cooled, draw, start_near
from gatescope.records import Quantity

#: What can make the data; the last two have the temperature among their unknowns.
TRUTHS = ("two experts, both on", "three experts, two on", "temperature, linear gate", "temperature, tanh gate")
MOST_SAMPLES_DRAWN = 600
_GRID = 121


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One position of the panel's controls.

    truth        a row of TRUTHS
    n            samples
    experts      how many are fitted
    k            how many stay on at an input; more than ``experts`` means all
    spare        the true expert (1 is the first) that surplus experts start near
    temperature  of the truth, where it is unknown
    seed         of the data and the start
    """

    truth: str
    n: int
    experts: int
    k: int
    spare: int = 1
    temperature: float = 0.5
    seed: int = 0

    def case(self) -> Case:
        """What is fitted to what. Raises Refusal for a truth, a size or a spare cell that is none."""
        truth = _truth(self.truth, self.temperature)
        if not 1 <= self.spare <= truth.n_experts:
            wanted = f"a spare cell of 1 to {truth.n_experts}"
            raise Refusal("Setting", wanted, str(self.spare), f"{self.truth!r} has {truth.n_experts} experts")
        own = list(range(truth.n_experts))[-self.experts :] if self.experts < truth.n_experts else None
        extra = [self.spare - 1] * (self.experts - truth.n_experts)
        router = RouterSpec(
            k=None if self.k >= self.experts else self.k,
            activation=truth.router.activation,
            temperature=truth.router.temperature,
        )
        return Case(truth, tuple(own or sorted([*range(truth.n_experts), *extra])), router)


def _truth(name: str, temperature: float) -> GaussianMoE:
    known = {
        TRUTHS[0]: lambda: DENSE,
        TRUTHS[1]: lambda: SPARSE,
        TRUTHS[2]: lambda: cooled("identity", temperature),
        TRUTHS[3]: lambda: cooled("tanh", temperature),
    }
    if name not in known:
        raise Refusal("Setting", f"a truth of {TRUTHS}", repr(name), "choose one of them")
    return known[name]()


def fitted(setting: Setting, *, iterations: int = 200) -> xr.Dataset:
    """A data set drawn and fitted, both mixtures on a grid, and in the attributes the numbers that sum it up.

    log_likelihood, log_likelihood_true  nats a sample
    hellinger                            distance of the fitted density from the true one
    steps, converged                     of EM
    temperature, temperature_true        where it is unknown
    """
    case, generator = setting.case(), torch.Generator().manual_seed(1_000 * setting.seed + setting.n)
    x, y = draw(case.truth, setting.n, 1, generator)
    fit = fit_em(start_near(case, 1, generator), x, y, iterations=iterations)
    grid = torch.linspace(-HALF, HALF, _GRID, dtype=torch.float64)
    inputs = torch.linspace(-0.98 * HALF, 0.98 * HALF, 24, dtype=torch.float64)[:, None]
    shown = slice(None, MOST_SAMPLES_DRAWN)
    variables = {
        "input": _along("input", ("point",), "input x", "a grid", grid),
        "sample_x": _along("sample_x", ("sample",), "input of a sample", "x", x[0, shown, 0]),
        "sample_y": _along("sample_y", ("sample",), "output of a sample", "y", y[0, shown]),
        "expert_cell": _along(
            "expert_cell", ("expert",), "Voronoi cell", "nearest true expert", voronoi_cells(fit.mixture, case.truth)[0]
        ),
        **_drawn("expert", "expert", fit.mixture, grid),
        **_drawn("true", "true_expert", case.truth, grid),
    }
    learned = case.router.temperature == "learned"
    known = {
        "temperature": float(fit.mixture.log_temperature.exp()),
        "temperature_true": float(case.truth.log_temperature.exp()),
    }
    return records.new(
        variables,
        n=setting.n,
        k=setting.k,
        log_likelihood=float(fit.log_likelihood) / setting.n,
        log_likelihood_true=float(case.truth.log_density(x, y).mean()),
        hellinger=float(hellinger(fit.mixture, case.truth, inputs)),
        steps=int(fit.iterations),
        converged=bool(fit.converged),
        note=f"n = {setting.n:,}, K = {min(setting.k, setting.experts)}",
        **(known if learned else {}),
    )


def _drawn(prefix: str, dim: str, mixture: GaussianMoE, grid: torch.Tensor) -> dict[str, xr.DataArray]:
    weights = mixture.log_weights(grid[None, :, None]).exp()[0].T
    slope, intercept = mixture.slope[0, :, 0], mixture.intercept[0]
    mass = (mixture.gate_bias * torch.exp(-mixture.log_temperature)[:, None]).exp()[0]
    mean = slope[:, None] * grid + intercept[:, None]
    return {
        f"{prefix}_{name}": _along(f"{prefix}_{name}", dims, long_name, formula, values)
        for name, dims, long_name, formula, values in (
            ("mean", (dim, "point"), "mean of an expert", "a x + c", mean),
            ("weight", (dim, "point"), "weight of an expert", "pi(x)", weights),
            ("scale", (dim,), "scale of an expert", "s", mixture.log_scale[0].exp()),
            ("slope", (dim,), "slope of an expert", "a", slope),
            ("intercept", (dim,), "intercept of an expert", "c", intercept),
            ("mass", (dim,), "weight of an expert at x = 0 against the last", "exp(b / tau)", mass),
        )
    }


def _along(name: str, dims: tuple[str, ...], long_name: str, formula: str, values: torch.Tensor) -> xr.DataArray:
    source = "Nguyen et al. 2023 (arXiv 2309.13850), section 1"
    return Quantity(name, dims, "1", long_name, formula, source, "see the true experts").variable(values.numpy())
