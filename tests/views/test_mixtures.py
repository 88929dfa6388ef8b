"""Rates and mixtures drawn are those planted."""

import numpy as np
import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_rate_lines_find_the_planted_exponents(falling):
    frame = views.rate_lines_frame(falling, "error").drop_duplicates("variant").set_index("variant")
    assert frame["rate"].tolist() == pytest.approx([-0.5, -0.25])
    assert (frame["low"] <= frame["rate"]).all()
    assert "alone -0.500, shared -0.250" in views.alt_text(views.rate_lines(falling, "error"))


def test_rate_lines_leave_out_what_has_no_logarithm_and_say_so(falling):
    falling["error"][1, 0, 2] = np.nan
    frame = views.rate_lines_frame(falling, "error").drop_duplicates("variant").set_index("variant")
    assert np.isnan(frame.loc["shared", "rate"])
    assert frame.loc["alone", "rate"] == pytest.approx(-0.5)
    assert "1 of 24 values of error are NaN" in views.alt_text(views.rate_lines(falling, "error"))
    falling["error"][:] = np.nan
    assert "nothing above 0" in views.alt_text(views.rate_lines(falling, "error"))


def test_rate_lines_want_their_dims(falling):
    with pytest.raises(Refusal, match="variant, seed, sample_size"):
        views.rate_lines(falling.isel(sample_size=0), "error")


def test_mixture_fit_counts_the_experts_of_every_cell(mixture):
    frame = views.mixture_fit_frame(mixture)
    assert frame.groupby("kind")["expert"].nunique().to_dict() == {"fitted": 3, "true": 2}
    own = frame[(frame["kind"] == "fitted") & (frame["expert"] == 1)]
    np.testing.assert_allclose(own["mean"], 0.9 * own["x"] - 1.2)
    assert "3 fitted experts: 2 in cell 1, 1 in cell 2" in views.alt_text(views.mixture_fit(mixture))


def test_voronoi_plane_measures_from_the_true_expert_of_the_cell(mixture):
    frame = views.voronoi_plane_frame(mixture)
    assert frame.loc[frame["kind"] == "fitted", "cell"].tolist() == [0, 0, 1]
    furthest = np.hypot(0.1, 0.1)
    assert f"{furthest:.3f} in slope and intercept" in views.alt_text(views.voronoi_plane(mixture))
