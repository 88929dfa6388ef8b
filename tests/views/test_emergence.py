"""What the views of emergence say of planted numbers."""

import pytest
from gatescope import views


def test_a_law_is_judged_by_what_it_leaves_over(emerging):
    frame = views.law_fit_frame(emerging)
    assert len(frame) == 10
    left = frame.groupby("law")["residual"].agg(["min", "max"])
    assert left.loc["logarithm"].tolist() == pytest.approx([-1, -1])
    assert left.loc["modulated logarithm"].tolist() == pytest.approx([0, 0])
    said = views.alt_text(views.law_fit(emerging))
    assert "modulated logarithm 1" in said
    assert "R² of logarithm -0." in said or "R² of logarithm 0" in said or "R² of logarithm −0." in said


def test_a_constant_series_has_no_r2(emerging):
    flat = emerging.assign(series_value=emerging.series_value * 0)
    assert "NaN" in views.alt_text(views.law_fit(flat)) or "nan" in views.alt_text(views.law_fit(flat))


def test_the_writer_is_named(emerging):
    assert "The MLP of layer 1 adds 500 in one place" in views.alt_text(views.written_profile(emerging))
    frame = views.written_profile_frame(emerging)
    assert list(frame.columns) == ["layer", "formed_value", "written_attention", "written_mlp"]
    swapped = emerging.assign(written_attention=-emerging.written_mlp, written_mlp=emerging.written_attention)
    assert "The attention of layer 1 adds" in views.alt_text(views.written_profile(swapped))
