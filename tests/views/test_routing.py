"""Loads over training and groups of tokens are drawn as planted."""

import numpy as np
import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_the_history_names_the_busiest_and_the_idle(history):
    frame = views.expert_load_history_frame(history)
    assert frame.loc[(frame["step"] == 100) & (frame["expert"] == 1), "relative"].item() == 3.0
    said = views.alt_text(views.expert_load_history(history))
    assert "at step 100 the busiest of 4 experts has 3.000 × the even load" in said
    assert "experts without a token: 2 (0 at step 0)" in said
    said = views.alt_text(views.expert_load_history(history, layer=1))
    assert "experts without a token: 0 (0 at step 50)" in said
    assert "4 of 24 values of expert_load are NaN" in said


def test_the_map_counts_experts_that_are_first(history):
    np.testing.assert_allclose(views.group_expert_map_frame(history)["group_expert"], [1, 0, 0, 0, 0.1, 0.9, 0, 0])
    said = views.alt_text(views.group_expert_map(history))
    assert "2 groups, 2 of 4 experts are first for any; the expert tells 0.560 nats about the group" in said
    said = views.alt_text(views.group_expert_map(history.drop_vars("group_information"), layer=1))
    assert "1 groups, 1 of 4 experts" in said
    assert "nats" not in said


@pytest.mark.parametrize("view", [views.expert_load_history, views.group_expert_map])
def test_a_layer_that_is_not_there_is_refused(view, history):
    with pytest.raises(Refusal, match=r"a layer of \[0, 1\], got 7"):
        view(history, layer=7)
