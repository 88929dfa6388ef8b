"""The numbers drawn are the numbers planted."""

import numpy as np
import pytest
import xarray as xr
from gatescope import views
from gatescope.errors import Refusal


def test_sink_heatmap_draws_its_frame_on_a_fixed_scale(record):
    frame, figure = views.sink_heatmap_frame(record), views.sink_heatmap(record)
    drawn = np.asarray(figure.data[0].z)
    assert drawn.ravel().tolist() == frame["first_attention"].tolist()
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    assert "0.970 (layer 2, head 1)" in views.alt_text(figure)


def test_dims_may_come_in_any_order(record):
    turned = record.assign(first_attention=record.first_attention.transpose("head", "layer"))
    assert views.sink_heatmap_frame(turned).equals(views.sink_heatmap_frame(record))


def test_key_mass_is_a_mean_or_one_head(record):
    mean, one = views.key_mass_bars_frame(record), views.key_mass_bars_frame(record, layer=1, head=2)
    assert mean["key_mass"].sum() == pytest.approx(1.0)
    assert one["key_mass"].tolist() == record.key_mass.sel(layer=1, head=2).values.tolist()
    assert mean["piece"][2] == " the"


def test_entropy_profile_holds_the_range_over_heads(record):
    frame = views.entropy_profile_frame(record)
    assert (frame["low"] <= frame["mean"]).all()
    assert (frame["mean"] <= frame["high"]).all()
    assert frame["high"][0] == record.entropy_normalised.sel(layer=0).max()


def test_massive_3d_finds_the_planted_spike_and_its_neighbours(record):
    frame = views.massive_3d_frame(record)
    peak = frame.loc[frame["magnitude"].idxmax()]
    assert (peak["token"], peak["dim"], peak["magnitude"]) == (0, 7, 900.0)
    assert {6, 7, 8} <= set(frame["dim"])
    assert frame["top"].sum() == 4 * frame["token"].nunique()


def test_massive_3d_stays_small_on_a_long_text_and_says_what_it_left_out(record):
    values = np.random.default_rng(0).uniform(size=(1, 300, 200))
    values[0, 250, 100] = 50
    ds = xr.Dataset({"magnitude": (("layer", "token", "dim"), values)})
    frame = views.massive_3d_frame(ds, layer=0)
    assert len(frame) == 400
    assert 250 in set(frame["token"])
    assert "40 of 300 tokens and 10 of 200 dimensions" in views.alt_text(views.massive_3d(ds))


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_massive_3d_states_its_scale(record, scale):
    figure = views.massive_3d(record, layer=3, scale=scale)
    assert figure.layout.scene.zaxis.type == scale
    assert scale in figure.layout.scene.zaxis.title.text
    with pytest.raises(Refusal, match="scale"):
        views.massive_3d(record, scale="sqrt")


def test_massive_table_ranks_over_layers_and_within_one(record):
    frame = views.massive_table_frame(record, rows=5)
    assert frame["value"].abs().is_monotonic_decreasing
    assert frame.loc[0, ["layer", "token", "dim", "value"]].tolist() == [3, 0, 7, 900.0]
    assert frame["times_median"][0] == pytest.approx(900 / float(record.magnitude_median[3]))
    assert set(views.massive_table_frame(record, layer=1)["layer"]) == {1}


def test_massive_table_ranks_a_negative_value_by_its_size(record):
    record["top_value"][1, 0] = -5000.0
    assert views.massive_table_frame(record)["value"][0] == -5000.0


def test_gate_histogram_rows_are_shares_and_carry_the_mean(record):
    frame = views.gate_histogram_frame(record)
    sums = frame.groupby(["layer", "gate_head"])["gate_histogram"].sum()
    assert np.allclose(sums, 1)
    figure = views.gate_histogram(record)
    assert list(figure.data[1].x) == record.gate_mean.values.ravel().tolist()
    assert len(views.gate_histogram(record.drop_vars("gate_mean")).data) == 1


def test_loss_bars_keep_replicates_and_average_them(losses):
    frame = views.loss_bars_frame(losses)
    assert frame["setting"].tolist()[:2] == ["full attention"] * 2
    assert frame.drop_duplicates("setting")["mean"].tolist() == pytest.approx([2.35, 3.6, 2.4, 3.5])
    assert views.loss_bars_frame(losses.isel(text=0))["nll"].tolist() == [2.3, 3.5, 2.3, 3.4]
    with pytest.raises(Refusal, match="setting"):
        views.loss_bars(losses.isel(setting=0))


def test_variant_strip_has_the_t_interval_and_the_ratio(runs):
    frame = views.variant_strip_frame(runs, "first_attention").drop_duplicates("variant").set_index("variant")
    values = np.array([0.22, 0.28, 0.25])
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert frame.loc["g1_element", ["low", "mean", "high"]].tolist() == pytest.approx([0.25 - half, 0.25, 0.25 + half])
    assert frame.loc["g1_element", "ratio"] == pytest.approx(0.25 / 0.74)
    assert frame.loc["softmax", "ratio"] == 1


def test_variant_strip_of_one_seed_claims_no_interval(runs):
    one = runs.isel(seed=0)
    assert views.variant_strip_frame(one, "first_attention")["low"].isna().all()
    assert "no interval" in views.alt_text(views.variant_strip(one, "first_attention"))


def test_a_variant_strip_speaks_of_the_seeds_that_a_variant_has(runs):
    whole = views.variant_strip_frame(runs.isel(seed=slice(1, None)), "first_attention").set_index("variant")
    gone = runs.copy(deep=True)
    last = gone.variant.values[-1]
    gone.first_attention.loc[{"variant": last, "seed": gone.seed.values[0]}] = float("nan")
    frame = views.variant_strip_frame(gone, "first_attention").set_index("variant")
    for name in ("mean", "low", "high"):
        assert frame.loc[last, name].iloc[0] == whole.loc[last, name].iloc[0]
    assert frame["ratio"].notna().all()


def test_variant_strip_compares_with_the_baseline_it_is_told(runs):
    frame = views.variant_strip_frame(runs, "first_attention", baseline="off_by_one").set_index("variant")
    assert (frame.loc["off_by_one", "ratio"] == 1).all()
    with pytest.raises(Refusal, match="baseline"):
        views.variant_strip(runs, "first_attention", baseline="none")


def test_variant_strip_breaks_names_that_would_leave_its_points_no_room(runs):
    long = runs.assign_coords(variant=[f"{name} {'axis=value ' * 9}".strip() for name in runs.variant.values])
    figure = views.variant_strip(long, "first_attention")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert all("\n" in tick.get_text() for tick in axes.get_yticklabels())
    assert axes.get_position().width > 0.2


@pytest.mark.parametrize("select", [{}, {"seed": 0}, {"seed": 0, "variant": 1}])
def test_curves_have_a_line_a_run_and_a_name_a_variant(runs, select):
    ds = runs.isel(select)
    figure = views.curves(ds, "loss")
    assert len(figure.data) == ds.sizes.get("variant", 1) * ds.sizes.get("seed", 1)
    assert sum(trace.showlegend for trace in figure.data) == ds.sizes.get("variant", 1)
    assert len(views.curves_frame(ds, "loss")) == ds.loss.size


def test_token_strip_is_coloured_by_value_around_zero(strip):
    html = views.token_strip(strip, "nll_change").html
    assert "position 11: 3.000" in html
    assert html.count("background:#D55E00") >= 1
    assert views.token_strip_frame(strip, "nll_change")["nll_change"].tolist() == strip.nll_change.values.tolist()


def test_expert_load_is_over_the_even_load_and_crosses_mark_the_dead(record):
    frame, figure = views.expert_load_heatmap_frame(record), views.expert_load_heatmap(record)
    assert frame["relative"].tolist() == pytest.approx((record.expert_load.values.ravel() * 6).tolist())
    assert np.asarray(figure.data[0].z).ravel().tolist() == pytest.approx(frame["relative"].tolist())
    assert (list(figure.data[1].x), list(figure.data[1].y)) == ([0], [1])
    assert "4.200 × the even load (layer 1, expert 1); 1 of 24 experts are dead" in views.alt_text(figure)
    assert "Window: 2,048 tokens" in views.alt_text(figure)


def test_coactivation_leaves_the_diagonal_out_and_finds_the_strongest_pair(record):
    frame, figure = views.coactivation_heatmap_frame(record), views.coactivation_heatmap(record)
    assert len(frame) == 30
    assert "layer 2: 0.900 of the tokens of expert 3 visit expert 4 too" in views.alt_text(figure)
    drawn = np.asarray(figure.data[0].z, dtype=float)
    assert np.isnan(drawn.diagonal()).all()
    assert drawn[~np.eye(6, dtype=bool)].tolist() == frame["coactivation"].tolist()
    other = views.coactivation_heatmap_frame(record, layer=0)
    assert other["coactivation"].max() < 0.9
    with pytest.raises(Refusal, match=r"coactivation_heatmap: wanted a layer of \[0, 1, 2, 3\], got 9"):
        views.coactivation_heatmap(record, layer=9)


def test_token_expert_map_places_every_visit(record):
    frame, figure = views.token_expert_map_frame(record, layer=0), views.token_expert_map(record, layer=0)
    assert len(frame) == 23
    drawn = np.asarray(figure.data[0].z, dtype=float)
    assert np.isfinite(drawn).sum() == 23
    for visit in frame.itertuples():
        assert drawn[visit.expert, visit.token] == visit.weight
    assert frame["piece"][4] == " the"
    with pytest.raises(Refusal, match="token_expert_map: wanted a layer of"):
        views.token_expert_map_frame(record, layer=4)


def test_layers_without_a_router_are_passed_over(record):
    ragged = record.where(record.layer != 0).assign_attrs(record.attrs)
    assert views.token_expert_map_frame(ragged).equals(views.token_expert_map_frame(record, layer=1))
    assert "1 of 18 experts are dead" in views.alt_text(views.expert_load_heatmap(ragged))
    assert views.coactivation_heatmap_frame(ragged)["coactivation"].max() == 0.9
    with pytest.raises(Refusal, match="token_expert_map: wanted a layer with a router, got layer 0"):
        views.token_expert_map(ragged, layer=0)


@pytest.mark.parametrize("name", ["residual_profile", "lens_profile", "sparsity_profile"])
def test_profiles_hold_every_layer_of_every_line(record, name):
    frame = getattr(views, f"{name}_frame")(record)
    for column in set(frame.columns) - {"layer"}:
        assert frame[column].tolist() == record[column].values.tolist()
    (axes,) = getattr(views, name)(record).axes
    drawn = {tuple(line.get_ydata()) for line in axes.lines}
    assert drawn <= {tuple(frame[column]) for column in frame.columns}
    assert len(drawn) >= 3


def test_outlier_profile_has_a_line_a_site_and_scaling_and_names_the_worst(record):
    frame, figure = views.outlier_profile_frame(record), views.outlier_profile(record)
    assert frame["int8_error"].tolist() == record.int8_error.values.ravel().tolist()
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata()) == 4}
    assert drawn["one scale a tensor, mlp"] == record.int8_error.sel(site="mlp", scaling="tensor").values.tolist()
    assert len(drawn) == 6
    assert "0.250 with one scale a tensor" in views.alt_text(figure)
    assert "the worst in layer 2" in views.alt_text(figure)
    one_site = views.outlier_profile(record.isel(site=[0]))
    assert "one scale a token" in {line.get_label() for line in one_site.axes[0].lines}


def test_outlier_profile_draws_errors_of_nothing(record):
    assert "0.000 with one scale a channel" in views.alt_text(
        views.outlier_profile(record.assign(int8_error=0 * record.int8_error))
    )


def test_weight_profile_places_every_parameter_in_its_layer(record):
    frame, figure = views.weight_profile_frame(record), views.weight_profile(record)
    assert frame["layer"].tolist() == [-1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert frame["patterns"].tolist() == ["", "", "", "2:4", "", "", "", "", ""]
    assert frame.set_index("parameter").loc["blocks.1.mlp.up", "layer_zeros"] == 0.25
    assert np.isnan(frame["layer_zeros"][0])
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["zeros, parameter"].get_ydata().tolist() == record.weight_zeros.values.tolist()
    assert drawn["Hoyer index, parameter"].get_ydata().tolist() == record.weight_hoyer.values.tolist()
    assert np.round(drawn["zeros, parameter"].get_xdata()).tolist() == frame["layer"].tolist()
    assert drawn["holds N:M"].get_ydata().tolist() == [0.5]
    text = views.alt_text(figure)
    assert "5.556 % are zero, most in blocks.1.mlp.up (50 %); 1 of 9 parameters hold an N:M pattern" in text


def test_weight_profile_needs_no_layers_and_no_patterns(record):
    bare = record.drop_vars(["weight_zeros_layer", "weight_nm"])
    frame = views.weight_profile_frame(bare)
    assert frame["layer_zeros"].isna().all()
    assert (frame["patterns"] == "").all()
    assert "pattern" not in views.alt_text(views.weight_profile(bare)).split(".")[0]
    with pytest.raises(Refusal, match="weight_profile: wanted the coordinate parameter_layer"):
        views.weight_profile(bare.drop_vars("parameter_layer"))
    with pytest.raises(Refusal, match=r"weights\.weight_record"):
        views.weight_profile(bare.drop_vars("weight_zeros"))
