"""Blocks drawn are those planted."""

import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_a_block_map_says_what_is_read_and_what_it_holds(blocks):
    frame = views.block_map_frame(blocks)
    assert len(frame) == 10
    assert frame["block_read"].sum() == 7
    assert "70 % of the visible blocks are read; they hold 75 % of what there is" in views.alt_text(
        views.block_map(blocks)
    )


def test_all_blocks_and_other_flags(blocks):
    blocks["block_read"][:] = 1
    assert "100 % of the visible blocks are read; they hold 100 %" in views.alt_text(views.block_map(blocks))
    blocks["block_read"][0, 0] = 0.5
    with pytest.raises(Refusal, match=r"block_read of 0 and 1, got values from 0\.5 to 1"):
        views.block_map(blocks)
