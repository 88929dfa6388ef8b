"""Numbers of the views of a memory, of a sweep and of operating modes."""

import numpy as np
import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_weights_are_ranked_and_the_k_that_hold_most_are_marked(memory):
    frame = views.state_weights_frame(memory)
    assert frame["stored"].tolist()[:4] == [1, 3, 4, 0]
    np.testing.assert_allclose(frame["cumulated"][:4], [0.5, 0.8, 0.95, 1.0])
    assert frame["within"].tolist() == [True, True, True, False, False, False]
    said = views.alt_text(views.state_weights(memory))
    assert said.startswith("3 of 6 patterns hold 90 % of the weight; 2 have none at all; weights sum to 1.000")


def test_a_state_that_reads_nothing_is_said(memory):
    memory["state_weight"].values[:] = 0
    said = views.alt_text(views.state_weights(memory))
    assert said.startswith("0 of 6 patterns hold 90 % of the weight; 6 have none")


def test_pixels_stand_in_rows_and_the_finding_is_the_title(memory):
    frame = views.retrieval_gallery_frame(memory)
    assert frame.groupby("picture", sort=False)["state_image"].count().tolist() == [9, 9, 9]
    assert views.alt_text(views.retrieval_gallery(memory)).startswith("retrieved after 1 update")
    with pytest.raises(Refusal, match="a square number of pixels"):
        views.retrieval_gallery(memory.isel(pixel=slice(8)))


def test_heads_are_counted_by_layer_and_class(memory):
    frame = views.mode_bars_frame(memory)
    assert frame.pivot(index="layer", columns="mode", values="heads").values.tolist() == [[2, 1, 0, 1], [0, 0, 1, 3]]
    assert views.alt_text(views.mode_bars(memory)).startswith("Operating modes of 8 heads: I 2, II 1, III 1, IV 4")


def test_a_sweep_says_where_its_means_begin_and_end(memory):
    frame = views.sweep_lines_frame(memory, "state_share")
    assert list(frame.columns) == ["variant", "seed", "beta", "state_share"]
    own = frame[frame["variant"] == "softmax"].groupby("beta")["state_share"].mean()
    said = views.alt_text(views.sweep_lines(memory, "state_share", "x"))
    assert f"softmax {own.iloc[0]:.3f} to {own.iloc[-1]:.3f}" in said


def test_what_was_not_swept_and_other_axes_are_refused(memory):
    with pytest.raises(Refusal, match="along one of beta, dimension"):
        views.sweep_lines(memory, "state_weight")
    with pytest.raises(Refusal, match="name the logarithmic axes"):
        views.sweep_lines(memory, "state_share", "z")
