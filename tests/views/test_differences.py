"""difference_map: two records, one variable, one scale."""

import numpy as np
import pytest
import xarray as xr
from gatescope import views
from gatescope.errors import Refusal
from gatescope.views.differences import choices


def z(trace):
    return np.asarray(trace.z, dtype=float)


def test_the_maps_are_the_frame_and_the_title_finds_the_planted_difference(two):
    frame, figure = views.difference_map_frame(two, "first_attention"), views.difference_map(two, "first_attention")
    assert list(frame) == ["layer", "head", "a", "b", "difference"]
    for trace, column in zip(figure.data, ("a", "b", "difference"), strict=True):
        assert z(trace).ravel().tolist() == frame[column].tolist()
    assert frame.loc[frame["difference"] != 0, ["layer", "head", "difference"]].values == pytest.approx(
        np.array([[2, 1, -0.9]])
    )
    assert "0.970" not in views.alt_text(figure)
    assert "largest difference −0.900 (layer 2, head 1)" in views.alt_text(figure)


def test_a_and_b_share_a_scale_and_the_difference_has_its_zero_in_the_middle(two):
    figure = views.difference_map(two, "first_attention")
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis", "coloraxis2"]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, pytest.approx(0.97))
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax == pytest.approx(-0.9)


@pytest.mark.parametrize("along", [("layer", "head"), ("layer", "token")])
def test_zooming_one_map_zooms_all(two, along):
    figure = views.difference_map(two, "key_mass", along)
    axes = {name: figure.layout[name].matches for name in ("xaxis2", "xaxis3", "yaxis2", "yaxis3")}
    assert axes == {"xaxis2": "x", "xaxis3": "x", "yaxis2": "y", "yaxis3": "y"}


def test_dims_not_drawn_are_averaged_and_said(two):
    frame = views.difference_map_frame(two, "key_mass", ("layer", "token"))
    assert frame["a"].tolist() == pytest.approx(two.key_mass.isel(record=0).mean("head").values.ravel().tolist())
    assert "Mean over head" in views.alt_text(views.difference_map(two, "key_mass", ("layer", "token")))
    turned = views.difference_map_frame(two, "key_mass", ("token", "layer"))
    assert turned.columns.tolist()[:2] == ["token", "layer"]


def test_choices_are_pairs_then_single_dims_layer_first(two):
    assert choices(two, "key_mass") == [
        ("layer", "head"),
        ("layer", "token"),
        ("head", "token"),
        ("layer",),
        ("head",),
        ("token",),
    ]
    assert choices(two, "weight_zeros_global") == [()]


def test_one_dim_is_lines_above_bars(two):
    figure = views.difference_map(two, "resid_norm")
    assert [trace.type for trace in figure.data] == ["scatter", "scatter", "bar"]
    assert list(figure.data[0].y) == list(figure.data[1].y) == two.resid_norm.isel(record=0).values.tolist()
    assert list(figure.data[2].y) == [0, 0, 0, 0]
    assert "no difference anywhere" in views.alt_text(figure)


def test_a_single_number_is_three_bars(two):
    figure = views.difference_map(two, "weight_zeros_global")
    assert list(figure.data[0].y) == ["A", "B", "B − A"]
    assert list(figure.data[0].x) == pytest.approx([1 / 18, 1 / 18, 0])


def test_a_place_without_a_number_in_one_counts_in_neither(two):
    two["first_attention"][1, 0, 0] = np.nan
    two["first_attention"][0, 0, 1] = np.inf
    frame = views.difference_map_frame(two, "first_attention")
    assert frame[["a", "b", "difference"]].isna().sum().tolist() == [2, 2, 2]
    heads = views.difference_map_frame(two, "first_attention", ("layer",))
    assert heads["a"][0] == float(two.first_attention[0, 0, 2])
    nothing = two.where(False).assign_attrs(two.attrs)
    assert "NaN in A, NaN in B" in views.alt_text(views.difference_map(nothing, "first_attention"))


def test_a_long_axis_is_averaged_over_neighbours_and_said():
    values = np.arange(2 * 600, dtype=float).reshape(2, 1, 600)
    ds = xr.Dataset(
        {"key_mass": (("record", "layer", "token"), values)}, coords={"record": ["A", "B"], "token": range(600)}
    )
    frame = views.difference_map_frame(ds, "key_mass")
    assert frame["token"].tolist() == [1.0 + 3 * i for i in range(200)]
    assert frame["a"].tolist() == frame["token"].tolist()
    assert set(frame["difference"]) == {600.0}
    text = views.alt_text(views.difference_map(ds, "key_mass"))
    assert "Points are means over 3 neighbours along token" in text


def test_what_differs_between_the_records_is_told_for_both(two):
    told = two.drop_attrs(deep=False).assign_coords(T=("record", [12, 24]))
    assert "T = 12 (A), 24 (B)" in views.alt_text(views.difference_map(told, "first_attention"))


@pytest.mark.parametrize(("gap", "said"), [(5e-17, "no difference anywhere"), (1e-9, "largest difference +1e-09")])
def test_a_difference_of_rounding_is_none(gap, said):
    values = np.stack([np.full((2, 3), 0.25), np.full((2, 3), 0.25)])
    values[1, 1, 2] += gap
    ds = xr.Dataset({"expert_load": (("record", "layer", "expert"), values)}, coords={"record": ["A", "B"]})
    figure = views.difference_map(ds, "expert_load")
    assert said in views.alt_text(figure)
    assert figure.layout.coloraxis.cmax > figure.layout.coloraxis.cmin


def test_colour_bars_hang_below_the_maps_however_low_these_are(two):
    for along in (("layer", "head"), ("layer", "token")):
        layout = views.difference_map(two, "key_mass", along).layout
        plot = layout.height - layout.margin.t - layout.margin.b
        assert plot >= 190
        for axis in (layout.coloraxis, layout.coloraxis2):
            assert layout.margin.b > -axis.colorbar.y * plot > 40
            assert axis.colorbar.yref != "container"


def test_names_are_escaped_wherever_they_are_drawn(two):
    hostile = two.assign_coords(record=["<script>alert(1)</script>", "<img src=x>"])
    for metric in ("first_attention", "resid_norm", "weight_zeros_global"):
        drawn = views.difference_map(hostile, metric)
        shown = drawn.to_dict()
        shown["layout"].pop("meta")  # read aloud, never as HTML
        assert "<script" not in str(shown)
        assert "<img" not in str(shown)


@pytest.mark.parametrize(
    ("change", "metric", "along", "words"),
    [
        (lambda ds: ds.isel(record=0), "first_attention", None, r"records\.pair"),
        (lambda ds: ds.isel(record=[0]), "first_attention", None, "1 records"),
        (lambda ds: ds, "first_attention", ("layer", "token"), "layer × head"),
        (lambda ds: ds, "first_attention", (), "got none"),
        (lambda ds: ds.rename(first_attention="top_dim"), "top_dim", None, "holds names"),
    ],
)
def test_what_cannot_be_drawn_is_refused(two, change, metric, along, words):
    with pytest.raises(Refusal, match=words):
        views.difference_map(change(two), metric, along)
