"""`gatescope compare`: numbers of the table are the records', the page stands alone, wrong files are one line."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope import cli, records
from gatescope.probes import Massive, Sinks
from gatescope.records import differences, pair
from gatescope.report import compare_page

from .test_report import HOSTILE, Page

OF = {quantity.name: quantity for kind in (Sinks, Massive) for quantity in kind.quantities}
FIRST, KEYS, TOP, NORM = (OF[name] for name in ("first_attention", "key_mass", "top_dim", "m_act"))


def record(shift: float, tokens: int = 60, **attrs):
    """Two layers, two heads; ``shift`` is planted at layer 1, head 0."""
    values = np.array([[0.1, 0.2], [0.3 + shift, 0.4]])
    keys = np.linspace(0, 1, 4 * tokens).reshape(2, 2, tokens)
    return records.new(
        {
            "first_attention": FIRST.variable(values, {"layer": [0, 1], "head": [0, 1]}),
            "key_mass": KEYS.variable(keys, {"token": list(range(tokens))}),
            "top_dim": TOP.variable(np.array([[5], [6 + int(shift > 0)]])),
            "m_act": NORM.variable(3.0 + shift),
        },
        **attrs,
    )


@pytest.fixture
def files(tmp_path):
    """A and B, both called record.nc."""
    places = [tmp_path / name / "record.nc" for name in ("before", "after")]
    for place, shift in zip(places, (0.0, 0.5), strict=True):
        records.save(record(shift, T=60), place)
    return places


def compare(*words: object) -> int:
    return cli.main(["compare", *map(str, words)])


def test_the_table_names_the_folders_and_the_planted_place(files, capsys):
    assert compare(*files) == 0
    said = capsys.readouterr().out
    assert "A = before, B = after" in said
    (line,) = [line for line in said.splitlines() if line.lstrip().startswith("first_attention")]
    assert "0.125" in line
    assert "layer 1, head 0" in line
    assert "top_dim: other names at 50 % of 2 places" in said


def test_a_page_is_written_with_a_figure_and_a_table_for_every_difference(files, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert compare(*files, "--out", out) == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert page.all("script") == page.all("link") == []
    drawings = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    assert len(drawings) == len(page.all("figure")) == 3
    assert all(len(attrs["aria-label"]) > 40 for attrs in drawings)
    assert "2 of 3 variables differ" in "".join(page.text)
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_equal_records_are_said_to_be_equal():
    html = compare_page(pair(record(0.0), record(0.0)))
    assert "No difference" in html
    assert differences(pair(record(0.0), record(0.0)))["difference"].abs().max() == 0


def test_other_lengths_are_compared_where_both_are_and_said():
    html = compare_page(pair(record(0.0, tokens=60), record(0.5, tokens=50)))
    assert "compared at the 50 common ones" in html


def test_no_name_becomes_markup():
    html = compare_page(pair(record(0.0, bos=HOSTILE), record(0.5, bos="none"), labels=(HOSTILE, "<b>B</b>")))
    assert Page(html).all("script") == []
    assert HOSTILE not in html
    assert "<b>B</b>" not in html


def test_chosen_variables_alone(files, capsys):
    assert compare(*files, "--variables", "m_act") == 0
    assert "first_attention" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{a}", "{a}"), "name another file"),
        (("{a}", "{folder}/none.nc"), "none.nc"),
        (("{a}", "{folder}/broken.nc"), "broken.nc"),
        (("{a}", "{b}", "--variables", "sinkz"), "sinkz"),
        (("{a}", "{folder}/other.nc"), "one definition of 'first_attention'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, said, files, tmp_path, capsys):
    (tmp_path / "broken.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    other = record(0.0)
    other["first_attention"].attrs["formula"] = "another"
    records.save(other, tmp_path / "other.nc")
    filled = [word.format(a=files[0], b=files[1], folder=tmp_path) for word in words]
    assert compare(*filled) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
