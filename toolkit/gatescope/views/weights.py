"""Sparsity of weights: how many are zero, how uneven the others are, and which parameters hold an N:M pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, labels, long_frame, variable
from gatescope.views.style import COMPARED, FAINT, INK, PAPER, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_OUTSIDE = -1
#: Parameters of one layer stand beside each other over this width, so that equal values do not hide one another.
_SPREAD = 0.6


def weight_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """A row a parameter: layer (-1 outside blocks), weight_count, weight_zeros, weight_hoyer, patterns, layer_zeros.

    patterns names the N:M patterns that the parameter holds; layer_zeros is the share of zeros of its whole layer, NaN
    outside the blocks and where the record has none. Raises Refusal without the variables of `weight_record`.
    """
    names = ("weight_count", "weight_zeros", "weight_hoyer")
    first, *others = (long_frame(variable(ds, name, "weight_profile", ("parameter",))) for name in names)
    for other in others:
        first = first.merge(other, on="parameter")
    if "parameter_layer" not in ds.coords:
        raise Refusal(
            "weight_profile",
            "the coordinate parameter_layer along parameter",
            f"only {sorted(map(str, ds.coords))}",
            "measure it with weights.weight_record(model)",
        )
    first.insert(1, "layer", ds["parameter_layer"].values.astype(int))
    by_layer = {}
    if "weight_zeros_layer" in ds:
        data = variable(ds, "weight_zeros_layer", "weight_profile", ("layer",))
        by_layer = dict(zip(labels(data, "layer"), data.values.tolist(), strict=True))
    return first.assign(patterns=_patterns(ds, len(first)), layer_zeros=first["layer"].map(by_layer).astype(float))


def weight_profile(ds: xr.Dataset) -> Still:
    """Zeros and Hoyer index of every parameter by layer; a step is the share of a layer, a ring an N:M pattern held.

    Parameters outside the blocks stand left of layer 0. Raises Refusal as `weight_profile_frame` does.
    """
    from gatescope.views.still import still, whole_axis

    frame = weight_profile_frame(ds)
    total = float(variable(ds, "weight_zeros_global", "weight_profile", ()))
    notes = context(ds, "weight_zeros", "weight_hoyer")
    if (frame["layer"] == _OUTSIDE).any():
        notes.insert(0, "Parameters outside the blocks (embeddings, last norm) stand at layer -1")
    size = frame.groupby("layer")["layer"].transform("size")
    place = frame["layer"] + _SPREAD * ((frame.groupby("layer").cumcount() + 0.5) / size - 0.5)
    with still(_finding(frame, total), notes) as (figure, axes):
        layers = frame[frame["layer_zeros"].notna()].drop_duplicates("layer")
        axes.hlines(
            layers["layer_zeros"],
            layers["layer"] - 0.4,
            layers["layer"] + 0.4,
            color=COMPARED,
            lw=2,
            label="zeros, layer",
        )
        axes.plot(place, frame["weight_zeros"], "o", color=COMPARED, ms=4, label="zeros, parameter")
        axes.plot(place, frame["weight_hoyer"], "d", color=INK, mfc=PAPER, ms=4, label="Hoyer index, parameter")
        held = frame["patterns"] != ""
        if held.any():
            style: dict[str, Any] = {"mfc": "none", "mew": 1.6, "ms": 9}
            axes.plot(place[held], frame["weight_zeros"][held], "o", color=STRONG, label="holds N:M", **style)
        axes.axhline(total, color=FAINT, ls="--", lw=1.2, label="zeros, all weights")
        axes.set(xlabel=axis_label("layer"), ylabel="share, or index from 0 to 1", ylim=(-0.03, 1.03))
        whole_axis(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=5)
    return figure


def _finding(frame: pd.DataFrame, total: float) -> str:
    title = f"Weights: {number(100 * total)} % are zero"
    if frame["weight_zeros"].max() > 0:
        most = frame.loc[frame["weight_zeros"].idxmax()]
        title += f", most in {most['parameter']} ({number(100 * most['weight_zeros'])} %)"
    held = int((frame["patterns"] != "").sum())
    return f"{title}; {held} of {len(frame)} parameters hold an N:M pattern" if held else title


def _patterns(ds: xr.Dataset, count: int) -> list[str]:
    if "weight_nm" not in ds:
        return [""] * count
    data = variable(ds, "weight_nm", "weight_profile", ("parameter", "pattern"))
    names = labels(data, "pattern")
    return [", ".join(name for name, value in zip(names, row, strict=True) if value == 1) for row in data.values]
