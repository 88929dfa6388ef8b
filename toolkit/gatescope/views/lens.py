"""The logit lens by layer: when the stream knows what the model will say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, variable
from gatescope.views.style import COMPARED, INK, PAPER, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_LINES = {
    "lens_loss": ("-o", INK, "loss of the next token"),
    "lens_divergence": ("-s", STRONG, "divergence from the model's last word"),
    "lens_entropy": ("-^", COMPARED, "entropy"),
}


def lens_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, lens_loss, lens_divergence, lens_entropy (nats), lens_agreement (a share of 1).

    Raises Refusal without one of them.
    """
    names = [*_LINES, "lens_agreement"]
    first, *others = (long_frame(variable(ds, name, "lens_profile", ("layer",))) for name in names)
    for other in others:
        first = first.merge(other, on="layer")
    return first


def lens_profile(ds: xr.Dataset) -> Still:
    """Loss, divergence and entropy of the logit lens by layer; the numbers above say how often lens and model agree.

    Raises Refusal as `lens_profile_frame` does.
    """
    from gatescope.views.still import still, whole_axis

    frame = lens_profile_frame(ds)
    half = frame[frame["lens_agreement"] >= 0.5]
    last = frame.iloc[-1]
    title = f"Logit lens: loss {number(frame['lens_loss'].iloc[0])} nats after layer {frame['layer'].iloc[0]:.0f}, "
    title += f"{number(last['lens_loss'])} after layer {last['layer']:.0f}"
    if len(half):
        title += f"; it names the model's token at half of the positions from layer {half['layer'].iloc[0]:.0f} on"
    note = "Share of tokens where lens and model name the same next token, above each layer"
    with still(title, [note, *context(ds, "lens_loss")]) as (figure, axes):
        for name, (style, colour, label) in _LINES.items():
            axes.plot(frame["layer"], frame[name], style, color=colour, ms=4, label=label)
        top = frame[list(_LINES)].max().max()
        step = max(1, -(-len(frame) // 16))
        for row in frame.iloc[::step].itertuples():
            axes.annotate(
                f"{row.lens_agreement:.2f}",
                (row.layer, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                fontsize=9,
                bbox={"facecolor": PAPER, "linewidth": 0, "pad": 1.5},
            )
        axes.set(xlabel=axis_label("layer"), ylabel="nats", ylim=(0, top * 1.15 if top > 0 else 1.0))
        whole_axis(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=3)
    return figure
