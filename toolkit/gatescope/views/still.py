"""Still figures for print and reports: matplotlib without pyplot, so nothing is registered and nothing leaks."""

from __future__ import annotations

import re
import textwrap
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from typing import Any

import matplotlib as mpl
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from gatescope.views.select import labels
from gatescope.views.style import CATEGORIES, DIVERGING, INK, PAPER, RULE, SOFT_INK

_WRAP, _TITLE_WRAP = 112, 88
#: matplotlib settings of every still.
STYLE: Any = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=CATEGORIES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#ECECEC",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "ytick.color": INK,
    "ytick.labelsize": 10,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "path",
    "svg.hashsalt": "gatescope",
}


#: The hash at the end of an id.
_HASHED = re.compile(rb'id="[^"]*?([0-9a-f]{10})"')


class Still(Figure):
    """A matplotlib figure that Jupyter shows as an image with an alt text. The same numbers give the same bytes."""

    alt_text: str = ""

    def svg(self) -> bytes:
        """The figure as SVG, without date."""
        stream = BytesIO()
        with mpl.rc_context(STYLE):
            self.savefig(stream, format="svg", metadata={"Date": None})
        return _numbered(stream.getvalue())

    def _repr_html_(self) -> str:
        source = b64encode(self.svg()).decode()
        return (
            f'<img alt="{escape(self.alt_text)}" style="max-width:100%;background:{PAPER}" '
            f'src="data:image/svg+xml;base64,{source}">'
        )


def _numbered(svg: bytes) -> bytes:
    """Ids that matplotlib makes of hashes, numbered as they come. It hashes places to the last bit, where the solver
    of the layout differs between runs, and writes them to six digits."""
    for n, digest in enumerate(dict.fromkeys(_HASHED.findall(svg))):
        svg = svg.replace(digest, b"%d" % n)
    return svg


@contextmanager
def still(title: str, context: Sequence[str], *, height: float = 4.0) -> Iterator[tuple[Still, Axes]]:
    """A figure 9.5 inches wide with one pair of axes; the title states the finding, and it joins the alt text."""
    with mpl.rc_context(STYLE):
        figure = _titled(title, context, height)
        axes = figure.subplots()
        _note(axes, context)
        yield figure, axes
        axes.set_ylabel(textwrap.fill(axes.get_ylabel(), max(12, round(9 * height))))


@contextmanager
def stills(
    title: str, context: Sequence[str], *, rows: int, columns: int, height: float = 4.0, sharey: bool = False
) -> Iterator[tuple[Still, list[Axes]]]:
    """As `still`, with axes in rows and columns that share their x, and their y where ``sharey``."""
    with mpl.rc_context(STYLE):
        figure = _titled(title, context, height)
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=[0.001, *[1.0] * rows])
        head = figure.add_subplot(grid[0, :])
        head.set_axis_off()
        _note(head, context)
        cells: list[Axes] = []
        for row in range(rows):
            for column in range(columns):
                first = cells[0] if cells else None
                cells.append(figure.add_subplot(grid[row + 1, column], sharex=first, sharey=first if sharey else None))
        yield figure, cells


def _titled(title: str, context: Sequence[str], height: float) -> Still:
    figure = Still(figsize=(9.5, height), layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1))
    figure.alt_text = ". ".join([title, *context])
    figure.suptitle(textwrap.fill(title, _TITLE_WRAP), x=0.01, ha="left", weight="bold", fontsize=13, parse_math=False)
    return figure


def _note(axes: Axes, context: Sequence[str]) -> None:
    lines = [part for line in context for part in textwrap.wrap(line, _WRAP)]
    axes.set_title("\n".join(lines), loc="left", fontsize=9.5, color=SOFT_INK, parse_math=False)


def draw_map(axes: Axes, data: xr.DataArray, low: float, high: float, cmap: str | Colormap) -> AxesImage:
    """``data`` along its two dims as a map, the first one upwards; the caller names the axes."""
    across, up = (places(data, str(dim)) for dim in reversed(data.dims))
    axes.grid(False)
    return axes.imshow(
        data.values.astype(float),
        cmap=cmap,
        vmin=low,
        vmax=high,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(across[0] - 0.5, across[-1] + 0.5, up[0] - 0.5, up[-1] + 0.5),
    )


def places(data: xr.DataArray, dim: str) -> list[float]:
    """Where the labels of ``dim`` stand on an axis: numbers where they are, others one after another."""
    values = labels(data, dim)
    numeric = all(isinstance(value, int | float) for value in values)
    return [float(value) for value in (values if numeric else range(len(values)))]


def signed_map() -> Colormap:
    """The colours of a quantity with a sign, its zero in the middle."""
    return LinearSegmentedColormap.from_list("signed", DIVERGING)


def whole_axis(axis: Axis) -> None:
    """Ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))
