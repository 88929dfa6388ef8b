"""Activation sparsity by layer: how much of an MLP a token leaves unused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, variable
from gatescope.views.style import CATEGORIES, COMPARED, INK, PAPER, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_LINES = {
    "activation_small": ("-o", COMPARED, 4, "near zero"),
    "activation_zeros": ("-s", STRONG, 8, "exactly zero"),  # larger, as both may be 0 in every layer
    "neurons_silent": ("-^", INK, 4, "neurons that never fire"),
    "activation_hoyer": ("--d", CATEGORIES[2], 4, "Hoyer index"),
}


def sparsity_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, activation_small, activation_zeros, neurons_silent, activation_hoyer, all from 0 to 1.

    Raises Refusal without one of them.
    """
    first, *others = (long_frame(variable(ds, name, "sparsity_profile", ("layer",))) for name in _LINES)
    for other in others:
        first = first.merge(other, on="layer")
    return first


def sparsity_profile(ds: xr.Dataset) -> Still:
    """Shares of hidden activations near and at zero, of silent neurons, and the Hoyer index, by layer.

    Raises Refusal as `sparsity_profile_frame` does.
    """
    from gatescope.views.still import still, whole_axis

    frame = sparsity_profile_frame(ds)
    attrs = ds["activation_small"].attrs
    title = (
        f"Hidden activations of the MLP: {number(frame['activation_small'].mean())} near zero, "
        f"{number(frame['activation_zeros'].mean())} exactly zero, mean over layers"
    )
    notes = context(ds, "activation_hoyer")
    if "threshold" in attrs:
        notes.insert(0, f"Near zero: at most {attrs['threshold']} × the token's largest magnitude")
    with still(title, notes) as (figure, axes):
        for name, (style, colour, size, label) in _LINES.items():
            axes.plot(frame["layer"], frame[name], style, color=colour, ms=size, mfc=PAPER, label=label)
        axes.set(xlabel=axis_label("layer"), ylabel="share, or index from 0 to 1", ylim=(-0.02, 1.02))
        whole_axis(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=4)
    return figure
