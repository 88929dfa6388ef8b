"""A memory at work: the state on its way as images, and the patterns it reads at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import COMPARED, FAINT, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

#: Most patterns drawn as bars.
_BARS = 40


def retrieval_gallery_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns picture, pixel, state_image: one row a pixel of an image, in rows from the upper left.

    Raises Refusal without state_image(picture, pixel), or when the pixels make no square.
    """
    data = variable(ds, "state_image", "retrieval_gallery", ("picture", "pixel"))
    side = math.isqrt(data.sizes["pixel"])
    if side**2 != data.sizes["pixel"]:
        step = "pad the images to a square"
        raise Refusal("retrieval_gallery", "a square number of pixels", f"{data.sizes['pixel']}", step)
    return long_frame(data, "state_image")


def retrieval_gallery(ds: xr.Dataset) -> Still:
    """Images side by side on one grey scale, dark where there is ink; the attribute ``finding`` is the title.

    Raises Refusal as `retrieval_gallery_frame` does.
    """
    from gatescope.views.still import stills

    frame = retrieval_gallery_frame(ds)
    data = ds["state_image"].transpose("picture", "pixel")
    side, names = math.isqrt(data.sizes["pixel"]), labels(data, "picture")
    title = str(ds.attrs.get("finding", f"{len(names)} images"))
    low, high = float(frame["state_image"].min()), float(frame["state_image"].max())
    with stills(title, context(ds, "state_image"), rows=1, columns=len(names), height=2.7) as (figure, cells):
        for axes, name, values in zip(cells, names, data.values, strict=True):
            axes.imshow(values.reshape(side, side), cmap="Greys", vmin=low, vmax=high, interpolation="nearest")
            axes.set_xlabel(str(name), fontsize=9.5)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
    return figure


def state_weights_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns rank, stored, state_weight, cumulated, within: the patterns by weight, largest first.

    cumulated is the share of all mass up to this rank, within whether the pattern is among the k that hold 90 % of it.
    Raises Refusal without state_weight(stored).
    """
    data = variable(ds, "state_weight", "state_weights", ("stored",))
    frame = long_frame(data, "state_weight").sort_values("state_weight", ascending=False, kind="stable")
    frame = frame.reset_index(drop=True)
    total = float(frame["state_weight"].sum())
    shares = frame["state_weight"].cumsum() / total if total > 0 else frame["state_weight"] * 0.0
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    before = shares.shift(fill_value=0.0)
    return frame.assign(cumulated=shares, within=(before < 0.9) & (total > 0))


def state_weights(ds: xr.Dataset) -> Still:
    """The largest weights with which a state reads its memory, the k that hold 90 % of the mass marked.

    Raises Refusal as `state_weights_frame` does.
    """
    from gatescope.views.still import still

    frame = state_weights_frame(ds)
    n, k, zeros = len(frame), int(frame["within"].sum()), int((frame["state_weight"] == 0).sum())
    total = float(frame["state_weight"].sum())
    title = f"{k} of {n} patterns hold 90 % of the weight; {zeros} have none at all; weights sum to {number(total)}"
    shown = frame.head(_BARS)
    notes = [f"the {len(shown)} largest of {n}, ranked", *context(ds, "state_weight")]
    with still(title, notes, height=3.4) as (figure, axes):
        colours = [STRONG if within else COMPARED for within in shown["within"]]
        axes.bar(shown["rank"], shown["state_weight"], color=colours, width=0.8)
        axes.axhline(1 / n, color=FAINT, ls="--", lw=1)
        axes.set(xlabel="pattern, ranked by weight", ylabel=quantity(ds["state_weight"]), xlim=(0.2, len(shown) + 0.8))
        axes.bar([np.nan], [np.nan], color=STRONG, label="the k that hold 90 %")
        axes.bar([np.nan], [np.nan], color=COMPARED, label="the rest")
        axes.plot([], [], color=FAINT, ls="--", lw=1, label="1 / N, the mean of all")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
