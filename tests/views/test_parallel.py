"""Lines over the axes of a grid: what varies is an axis, the title names the ends, who has no number is left out."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_axes_are_what_varies_and_a_point_without_the_metric_is_left_out(grid_points):
    frame = views.parallel_points_frame(grid_points, "first_attention")
    assert list(frame.columns) == ["position", "lr", "first_attention"]
    assert frame["first_attention"].tolist() == [0.7, 0.1, 0.4, 0.6, 0.2]
    text = views.alt_text(views.parallel_points(grid_points, "first_attention"))
    assert "least 0.100 (position sdpa), most 0.700 (position none)" in text
    assert "5 points" in text


def test_every_line_ends_at_its_metric(grid_points):
    figure = views.parallel_points(grid_points, "first_attention")
    lines = next(part for part in figure.axes[0].collections if len(part.get_segments()) == 5)
    frame = views.parallel_points_frame(grid_points, "first_attention")
    np.testing.assert_allclose(lines.get_array(), frame["first_attention"])
    np.testing.assert_allclose([line[-1, 1] for line in lines.get_segments()], (frame["first_attention"] - 0.1) / 0.6)


def test_points_that_are_alike_or_have_no_number_are_refused(grid_points):
    with pytest.raises(Refusal, match="a coordinate along point that varies"):
        views.parallel_points(grid_points.isel(point=[0]), "first_attention")
    with pytest.raises(Refusal, match="a point with first_attention"):
        views.parallel_points(grid_points.where(False), "first_attention")
