"""The cell drawn is the one planted."""

from __future__ import annotations

import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_chosen_operations_are_named_with_their_ends(cell):
    frame = views.cell_graph_frame(cell)
    chosen = frame[frame["operation_chosen"]]
    assert chosen[["source", "node", "operation"]].values.tolist() == [[0, 1, "skip"], [1, 2, "conv 3x3"]]
    assert chosen["operation_weight"].tolist() == [0.7, 0.6]
    figure = views.cell_graph(cell)
    assert "in to 1: skip; 1 to 2: conv 3x3" in views.alt_text(figure)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"in", "1", "2", "skip (0.700)", "conv 3x3 (0.600)"} <= texts
    assert len(figure.axes[0].patches) == 3


def test_a_cell_without_edges_is_said_and_other_labels_are_refused(cell):
    nothing = cell.assign(operation_chosen=cell["operation_chosen"] * 0)
    assert "no edge" in views.alt_text(views.cell_graph(nothing))
    with pytest.raises(Refusal, match="edges labelled '0→1'"):
        views.cell_graph(cell.assign_coords(edge=["a", "b", "c"]))
