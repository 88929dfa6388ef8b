"""Which blocks of an attention are read, and what lies in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import SEQUENTIAL, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_DIMS = ("query_block", "key_block")
#: The share of blocks that are told apart by their colour; those above it have the brightest.
_BRIGHTEST = 0.95


def block_map_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns query_block, key_block, block_attention and block_read (0 or 1); blocks of the future left out.

    Raises Refusal without block_attention and block_read over query_block and key_block, and for other flags.
    """
    attention, read = (variable(ds, name, "block_map", _DIMS) for name in ("block_attention", "block_read"))
    if not set(pd.unique(read.values.ravel())) <= {0, 1}:
        got = f"values from {float(read.min()):g} to {float(read.max()):g}"
        raise Refusal("block_map", "block_read of 0 and 1", got, "select one sequence and head")
    frame = long_frame(attention).assign(block_read=read.values.astype(int).ravel())
    return frame[frame["key_block"] <= frame["query_block"]].reset_index(drop=True)


def block_map(ds: xr.Dataset) -> Still:
    """What a block is worth, in colour where it is read and in grey, the darker the more, where it is not.

    Raises Refusal as `block_map_frame` does.
    """
    from gatescope.views.still import draw_map, still, whole_axis

    frame = block_map_frame(ds)
    data, read = (ds[name].transpose(*_DIMS) for name in ("block_attention", "block_read"))
    rows = xr.DataArray(range(data.sizes["query_block"]), dims="query_block")
    seen = xr.DataArray(range(data.sizes["key_block"]), dims="key_block") <= rows
    held = float(frame.loc[frame["block_read"] == 1, "block_attention"].sum() / frame["block_attention"].sum())
    share = float(frame["block_read"].mean())
    title = f"{number(100 * share)} % of the visible blocks are read; they hold {number(100 * held)} % of what there is"
    notes = ["colour: read; grey, the darker the more: not read; white: the future", *context(ds, "block_attention")]
    # The first block of a head with a sink would leave all others in the darkest colour.
    worth = frame["block_attention"]
    largest = float(worth.quantile(_BRIGHTEST)) or float(worth.max()) or 1.0
    with still(title, notes, height=4.8) as (figure, axes):
        draw_map(axes, data.where(seen & (read == 0)), 0.0, largest, "Greys")
        picture = draw_map(axes, data.where(seen & (read == 1)), 0.0, largest, SEQUENTIAL)
        axes.invert_yaxis()
        figure.colorbar(picture, ax=axes, label=quantity(data), shrink=0.9, pad=0.01, extend="max")
        axes.set(xlabel=axis_label("key_block"), ylabel=axis_label("query_block"))
        for axis in (axes.xaxis, axes.yaxis):
            whole_axis(axis)
    return figure
