"""Token text is untrusted, figures leak nothing, and the same record gives the same bytes."""

import re

import pytest
from gatescope import views
from gatescope.views import style
from gatescope.views.still import still


@pytest.mark.parametrize("name", ["massive_table", "token_strip"])
def test_html_views_escape_token_text(name, drawn):
    ds, arguments = drawn[name]
    hostile = ds.assign_coords(piece=("token", ["<script>alert(1)</script>"] * ds.sizes["token"]))
    html = getattr(views, name)(hostile, *arguments).html
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("name", ["massive_3d", "key_mass_bars", "token_expert_map"])
def test_hover_texts_escape_token_text(name, record):
    assert "<script" not in getattr(views, name)(record).to_json().replace("\\u003c", "<")


def test_a_title_from_the_record_is_escaped(record):
    record["first_attention"].attrs["baseline"] = '<img src=x onerror="1">'
    assert "<img" not in views.sink_heatmap(record).layout.title.text


def test_a_page_stands_alone(strip, tmp_path):
    views.token_strip(strip, "nll_change").save(tmp_path / "strip.html")
    page = (tmp_path / "strip.html").read_text()
    assert page.startswith("<!doctype html>")
    assert not re.search(r"https?://", page)


def test_stills_are_deterministic_and_register_nothing(record):
    import sys

    first, second = views.entropy_profile(record), views.entropy_profile(record)
    assert first.svg() == second.svg()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    assert f'alt="{first.alt_text[:20]}' in first._repr_html_()


def test_ids_of_a_still_do_not_hang_on_the_last_bit_of_its_layout():
    def drawn(shift: float) -> bytes:
        with still("Two lines", []) as (figure, axes):
            axes.plot([0, 1], [0, 1], marker="o")
            axes.set_position((0.1 + shift, 0.1, 0.8, 0.7))
            figure.set_layout_engine(None)
        return figure.svg()

    assert drawn(0.0) == drawn(1e-13)
    assert b'clip-path="url(#p' in drawn(0.0)
    assert drawn(0.0) != drawn(0.1)


@pytest.mark.parametrize("diverging", [False, True])
def test_text_on_every_shade_has_contrast(diverging):
    for step in range(21):
        paper, ink = style.shade(step / 20, diverging=diverging)
        light, dark = sorted((_luminance(paper), _luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (paper, ink)


@pytest.mark.parametrize(
    ("value", "text"),
    [(22552.0, "22,552"), (0.97, "0.970"), (0.0084, "0.0084"), (0.0, "0.000"), (171.4, "171.4"), (float("nan"), "NaN")],
)
def test_numbers_in_sentences(value, text):
    assert style.number(value) == text


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
