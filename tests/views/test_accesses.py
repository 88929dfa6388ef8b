"""Who touched what is drawn as planted: programs, what lies outside, what is written twice, what nobody touches."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope import views
from gatescope.errors import Refusal


def test_the_first_to_touch_and_how_many_do_are_counted(accesses):
    frame = views.access_map_frame(accesses)
    assert frame["reader"].tolist() == ["0", "0", "1", "1", "", "", "", "", "1"]
    assert frame["writer"].tolist() == [*[""] * 4, "0", "0", "1", "1", ""]
    assert frame["writers"].tolist() == [0, 0, 0, 0, 1, 2, 1, 1, 0]
    assert frame["writes"].sum() == 5


def test_findings_are_said_with_their_numbers(accesses):
    text = views.alt_text(views.access_map(accesses))
    assert text.startswith("20 bytes read, 20 written by 2 programs. 1 element read around x, outside every tensor")
    assert "1 element of y written more than once" in text
    assert "never touched" not in text
    idle = accesses.assign(reads=accesses["reads"].where(accesses["column"] != 0, 0))
    assert "1 element of x never touched" in views.alt_text(views.access_map(idle))


def test_one_program_is_lit_and_the_numbers_stay(accesses):
    whole, one = (views.access_map(accesses, program) for program in (None, 1))
    assert one.alt_text == whole.alt_text
    assert 'fill-opacity="0.12"' in one.html
    assert 'fill-opacity="0.12"' not in whole.html
    assert one.html.count("url(#gs-outside)") == 1


def test_what_lies_far_out_is_counted_and_not_drawn(accesses):
    far = accesses.assign_coords(column=("cell", np.where(accesses["inside"], accesses["column"], 10**6)))
    figure = views.access_map(far)
    assert "1 element read around x" in figure.alt_text
    assert "url(#gs-outside)" not in figure.html
    assert len(figure.html) < 20_000


@pytest.mark.parametrize(("program", "wanted"), [(2, "a program from 0 to 1"), (-1, "a program from 0 to 1")])
def test_a_program_that_is_not_there_is_refused(accesses, program, wanted):
    with pytest.raises(Refusal, match=wanted):
        views.access_map(accesses, program)


def test_cells_without_a_place_are_refused(accesses):
    with pytest.raises(Refusal, match="coordinates tensor, row, column, inside, bytes"):
        views.access_map(accesses.drop_vars("row"))
