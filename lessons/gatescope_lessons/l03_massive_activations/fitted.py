"""From the series of a run to numbers: every law fitted to every layer, and judged on steps that it did not see."""

from __future__ import annotations

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.emergence import LAWS, MODULATED, compare_laws, held_out_error
from gatescope.records import Quantity
from jaxtyping import Bool, Float

#: Laws that are also fitted without some of the steps: the law, its ablation, and the paper's best rival.
JUDGED = (MODULATED, "logarithm", "second order")
#: What is held out: every third point, or the last third of the training.
HELD = ("between", "after")
PARAMETERS = LAWS[MODULATED].parameters
_SOURCE = "Gallego-Feliciano et al. 2025 (arXiv 2508.03616)"

_STEP = Quantity("recorded_step", ("point",), "1", "training step", "optimiser steps so far", "measured", "0")
_LOSS = Quantity("train_loss", (), "nats", "training loss", "mean of the last 20 steps", "measured", "log(vocab)")
_R2 = Quantity(
    "law_r2", ("law", "layer"), "1", "share of variance that a law explains",
    "1 - sum r^2 / sum (y - mean y)^2, y the ratio of largest to median over steps", _SOURCE, "the mean: 0",
)  # fmt: skip
_AIC = Quantity(
    "law_aic", ("law", "layer"), "1", "Akaike's criterion", "n log(sum r^2 / n) + 2 p", "Akaike 1974", "less is better"
)
_PARAMETER = Quantity(
    "law_parameter", ("parameter", "layer"), "1", "fitted parameter", "least squares, see gatescope.emergence",
    f"{_SOURCE}, eq. 9", "any",
)  # fmt: skip
_ERROR = Quantity(
    "law_error", ("parameter", "layer"), "1", "standard error of a parameter",
    "sqrt of the diagonal of s^2 (J^T J)^-1; infinite where the data leave a direction open", "least squares", "any",
)  # fmt: skip
_HELD_OUT = Quantity(
    "held_out", ("setting", "law", "layer"), "1", "error on held-out steps",
    "RMSE on the steps held out over the range of all values", "this project", "the mean of a ramp: 0.29",
)  # fmt: skip
_LAST = Quantity(
    "held_out_last", ("layer",), "1", "error of the last value seen, on the last third of the training",
    "RMSE of y(t) = y(last step fitted) over the range of all values", "this project", "a constant series: 0",
)  # fmt: skip


def masks(steps: Float[np.ndarray, " n"]) -> dict[str, Bool[np.ndarray, " n"]]:
    """HELD -> which steps are held out."""
    between = np.arange(len(steps)) % 3 == 1
    return dict(zip(HELD, (between, steps > 2 * steps.max() / 3), strict=True))


def summarised(run: xr.Dataset) -> xr.Dataset:
    """A record of `runs.record_run` along ``point`` instead of ``step``, with all fits of every layer."""
    steps, layers = run.step.values.astype(float), run.layer.values
    rows = [_layer(steps, run.massive_ratio.sel(layer=layer).values) for layer in layers]
    coords = {"layer": layers, "law": list(LAWS), "parameter": list(PARAMETERS), "setting": list(HELD)}
    kept = run[["massive_ratio", "magnitude_max", "massive_count"]].drop_vars("step").rename(step="point")
    new = {
        _STEP.name: _STEP.variable(steps),
        _LOSS.name: _LOSS.variable(run.attrs["loss"]),
        _R2.name: _R2.variable(np.stack([row["r2"] for row in rows], -1), coords),
        _AIC.name: _AIC.variable(np.stack([row["aic"] for row in rows], -1), coords),
        _PARAMETER.name: _PARAMETER.variable(np.stack([row["parameter"] for row in rows], -1), coords),
        _ERROR.name: _ERROR.variable(np.stack([row["error"] for row in rows], -1), coords),
        _HELD_OUT.name: _HELD_OUT.variable(
            np.stack([row["held"] for row in rows], -1), coords | {"law": list(JUDGED)}
        ).reindex(law=list(LAWS)),
        _LAST.name: _LAST.variable(np.array([row["last"] for row in rows]), coords),
    }
    kept = kept.assign_coords(point=np.arange(len(steps)))
    return records.merge([kept, records.new(new)])


def _layer(steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> dict[str, np.ndarray | float]:
    fits, span, held = compare_laws(steps, values), float(np.ptp(values)), masks(steps)
    after = held["after"]
    last = np.sqrt(np.mean((values[after] - values[~after][-1]) ** 2))
    return {
        "r2": np.array([fits[law].r2 for law in LAWS]),
        "aic": np.array([fits[law].aic for law in LAWS]),
        "parameter": np.array([fits[MODULATED].parameters[name] for name in PARAMETERS]),
        "error": np.array([fits[MODULATED].errors[name] for name in PARAMETERS]),
        "held": np.array([[held_out_error(steps, values, held[how], law) / span for law in JUDGED] for how in HELD]),
        "last": float(last / span),
    }
