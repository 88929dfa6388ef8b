"""A cell of a searched network as a graph: which operation stands between which nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.views.select import context, labels, long_frame, variable
from gatescope.views.style import FAINT, INK, PAPER, category, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gatescope.views.still import Still

_DIMS = ("edge", "operation")
_ARROW = "→"


def cell_graph_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns edge, source, node, operation, operation_weight, operation_chosen; an edge is labelled "0→1", and node 0
    is the input of the cell.

    Raises Refusal without operation_weight(edge, operation) and operation_chosen(edge, operation), and for edges that
    are labelled otherwise.
    """
    frame = long_frame(variable(ds, "operation_weight", "cell_graph", _DIMS))
    chosen = long_frame(variable(ds, "operation_chosen", "cell_graph", _DIMS))
    ends = frame["edge"].astype(str).str.extract(rf"^(\d+){_ARROW}(\d+)$")
    if ends.isna().any(axis=None):
        raise Refusal("cell_graph", f"edges labelled '0{_ARROW}1'", f"{labels(ds, 'edge')}", "name source and node")
    places = {"source": ends[0].astype(int), "node": ends[1].astype(int)}
    frame = frame.assign(**places, operation_chosen=chosen["operation_chosen"] > 0)
    return frame[["edge", "source", "node", "operation", "operation_weight", "operation_chosen"]]


def cell_graph(ds: xr.Dataset) -> Still:
    """The chosen operations as arrows between nodes, with their weights; edges without one are dotted. What leaves the
    cell is the mean of its nodes.

    Raises Refusal as `cell_graph_frame` does.
    """
    from gatescope.views.still import still

    frame = cell_graph_frame(ds)
    chosen = frame[frame["operation_chosen"]]
    nodes, names = int(frame["node"].max()), labels(ds, "operation")
    said = "; ".join(f"{_name(row.source)} to {row.node}: {row.operation}" for row in chosen.itertuples())
    notes = [*context(ds, "operation_weight"), "an arrow: a chosen operation and its weight; dotted: no edge"]
    with still(f"The cell: {said or 'no edge'}", notes, height=1.6 + 0.85 * nodes) as (figure, axes):
        axes.set_axis_off()
        short = 0.03 * (nodes + 0.6)  # the radius of a node
        empty = set(zip(frame["source"], frame["node"], strict=True))
        for row in chosen.itertuples():
            empty.discard((row.source, row.node))
            text = f"{row.operation} ({number(float(row.operation_weight))})"
            _edge(axes, row.source, row.node, category(names.index(row.operation)), text, short)
        for source, node in sorted(empty):
            _edge(axes, source, node, FAINT, "", short)
        for node in range(nodes + 1):
            axes.text(node, 0, _name(node), ha="center", va="center", color=INK, fontsize=12, weight="bold", zorder=4,
                      bbox={"boxstyle": "circle,pad=0.5", "fc": PAPER, "ec": INK, "lw": 1.5})  # fmt: skip
        axes.set(xlim=(-0.3, nodes + 0.3), ylim=(-0.5, 0.35 + 0.75 * (nodes - 1)))
    return figure


def _edge(axes: Axes, source: int, node: int, colour: str, text: str, short: float) -> None:
    """An arc from ``source`` to ``node``, higher the more nodes it passes, that ends ``short`` before its node."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    rise, length = 0.75 * (node - source - 1), node - source
    end = 1 - short / length
    # a parabola of that height, cut at ``end``
    points = [(source, 0.0), (source + length * end / 2, 2 * rise * end), (node - short, 4 * rise * end * (1 - end))]
    curve = Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    arrow = FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=18, color=colour)
    arrow.set(linewidth=2.2 if text else 1.2, linestyle="-" if text else ":")
    axes.add_patch(arrow)
    height, side = (rise + 0.12, "bottom") if rise else (-0.12, "top")
    axes.text((source + node) / 2, height, text, ha="center", va=side, color=INK, fontsize=10.5, zorder=5)


def _name(node: int) -> str:
    return str(node) if node else "in"
