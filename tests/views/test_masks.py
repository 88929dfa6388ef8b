"""Masks drawn are those planted."""

import numpy as np
import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_a_mask_map_counts_what_stays(masked):
    frame = views.mask_map_frame(masked)
    assert frame["masked_weight"].notna().tolist() == [True, False, True, False] * 3
    text = views.alt_text(views.mask_map(masked))
    assert "6 of 12 weights stay (50 %), 2 inputs a group" in text
    assert "NaN" not in text


def test_a_mask_that_leaves_nothing_is_drawn(masked):
    masked["masked_weight"][:] = np.nan
    assert "0 of 12 weights stay" in views.alt_text(views.mask_map(masked))


def test_other_dims_are_refused(masked):
    with pytest.raises(Refusal, match=r"masked_weight\(hidden, dim\)"):
        views.mask_map(masked.isel(hidden=0))
