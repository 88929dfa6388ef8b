"""Lesson 03: its runs at their smallest, its fits and effects on planted records, and the published numbers again."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from gatescope.emergence import LAWS, MODULATED, modulated_logarithm
from gatescope_lessons.l03_massive_activations import formed, lab, runs
from gatescope_lessons.l03_massive_activations.fitted import HELD, JUDGED, PARAMETERS, masks, summarised
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = {claim.id: claim for claim in load_claims() if claim.lesson == "l03_massive_activations"}


def test_steps_are_spaced_as_pythias_checkpoints_and_end_with_the_run() -> None:
    steps = runs.recorded_steps(288)
    assert steps[:6] == (0, 1, 2, 4, 8, 12)
    assert set(np.diff(steps[5:])) == {12}
    assert steps[-1] == 288
    assert all(runs.recorded_steps(arm.steps)[-1] == arm.steps for arm in runs.ARMS.values())


def test_architectures_differ_from_the_base_in_nothing_else() -> None:
    base = runs.ARMS[runs.BASE]
    for name in runs.ARCHITECTURES:
        arm = runs.ARMS[name]
        assert (arm.task, arm.lr, arm.steps, arm.tied) == (base.task, base.lr, base.steps, base.tied)
    assert len({runs.ARMS[name] for name in runs.ARCHITECTURES}) == 6


def test_a_run_is_recorded_along_its_steps_and_comes_out_again() -> None:
    arm = runs.Arm(n_layers=2, d_model=16)
    one, again = (runs.record_run(arm, seed=3, steps=48) for _ in range(2))
    assert one.step.values.tolist() == list(runs.recorded_steps(48))
    assert one.massive_ratio.sizes == {"step": 26, "layer": 2}
    xr.testing.assert_identical(one.massive_ratio, again.massive_ratio)
    assert float(one.massive_ratio.isel(step=0, layer=0)) != float(one.massive_ratio.isel(step=-1, layer=0))


def planted_run(points: int = 30) -> xr.Dataset:
    """Two layers: one that follows the law, one that follows it without decay."""
    steps = np.linspace(0, 290, points)
    truth = {"amplitude": 8.0, "rate": 0.05, "offset": 0.7, "steady": 6.0}
    values = np.stack([modulated_logarithm(steps, decay=decay, **truth) for decay in (0.2, 0.0)], axis=1)
    values += 0.01 * np.random.default_rng(0).standard_normal(values.shape)
    about = {name: "planted" for name in ("long_name", "formula", "source", "baseline")} | {"units": "1"}
    names = ("massive_ratio", "magnitude_max", "massive_count")
    variables = {name: (("step", "layer"), values, about) for name in names}
    return xr.Dataset(variables, {"step": steps, "layer": [0, 1]}, {"gatescope_schema": 1, "loss": 1.5})


def test_fits_of_a_planted_run() -> None:
    found = summarised(planted_run())
    assert float(found.train_loss) == 1.5
    assert (found.law_r2.sel(law=MODULATED) > 0.999).all()
    assert float(found.law_parameter.sel(parameter="decay", layer=0)) == pytest.approx(0.2, rel=0.1)
    aic = found.law_aic
    assert float(aic.sel(law=MODULATED, layer=0)) < float(aic.sel(law="logarithm", layer=0))
    held = found.held_out.sel(setting="after", layer=0)
    assert float(held.sel(law=MODULATED)) < 0.3 * float(held.sel(law="logarithm"))
    assert found.held_out.sel(law=[law for law in LAWS if law not in JUDGED]).isnull().all()
    assert (found.held_out_last > 0).all()


def test_held_out_steps_are_some_and_never_all() -> None:
    found = masks(np.array(runs.recorded_steps(288), dtype=float))
    assert set(found) == set(HELD)
    assert found["after"].sum() == 8
    assert not (found["after"] & (np.array(runs.recorded_steps(288)) <= 192)).any()
    assert 0.3 < found["between"].mean() < 0.4


def planted(**changes: float) -> xr.Dataset:
    """A record in which every effect is as the papers say, but for ``changes``."""
    arms, seeds, points, layers = list(runs.ARMS), np.arange(3), 30, 30
    texts, nudge = list(lab.TEXT_NAMES), 1 + 1e-3 * np.arange(3)
    ratio = np.full((len(arms), 3, points, layers), np.nan)
    parameter = np.full((len(arms), 3, len(PARAMETERS), layers), np.nan)
    number = np.full((len(arms), 3, layers), np.nan)
    rise, early = np.linspace(1, 2, points), np.r_[np.linspace(1, 2, 5), np.linspace(2, 1.5, points - 5)]
    for place, arm in enumerate(arms):
        own = runs.ARMS[arm]
        for layer in range(own.n_layers):
            end = layer in (0, own.n_layers - 1)
            height = (5.0 if end else changes.get("middle", 10.0)) / own.n_heads ** changes.get("heads", 0.5)
            curve = early if end == (changes.get("turned", 0) == 0) else rise
            ratio[place, :, :, layer] = nudge[:, None] * height * curve
            at = layer / (own.n_layers - 1)
            steady = 3 * at + 2 * at**2 + 0.01 * own.n_layers * layer + 0.1 * own.d_model / own.n_layers
            parameter[place, :, :, layer] = nudge[:, None] * steady
            number[place, :, layer] = 1.0
    law = np.stack([number] * len(LAWS), axis=2)
    aic = law * np.arange(len(LAWS))[None, None, :, None] * changes.get("aic", 1.0)
    held = np.stack([law * 0.1 * nudge[:, None, None]] * 2 + [law * np.nan] * 5, axis=2)
    value, mlp = np.ones((5, layers)), np.full((5, layers), 0.1)
    value[:, 11:], mlp[:, 11] = 20000.0, changes.get("stroke", 19900.0) + np.arange(5)
    nll = (
        np.tile([np.nan, np.nan, 2.4, 11.0, 2.4, 2.4, changes.get("at_mean", 2.41)], (5, 1))
        + 1e-4 * np.arange(5)[:, None] ** 2
    )
    run, series = ("variant", "seed"), ("variant", "seed", "point", "layer")
    return xr.Dataset(
        {
            "massive_ratio": (series, ratio),
            "magnitude_max": (series, 2 * ratio),
            "massive_count": (series, 0 * ratio),
            "recorded_step": ((*run, "point"), np.tile(np.linspace(0, 288, points), (len(arms), 3, 1))),
            "train_loss": (run, np.full((len(arms), 3), 2.0)),
            "law_r2": ((*run, "law", "layer"), law * changes.get("r2", 0.98) * nudge[:, None, None]),
            "law_aic": ((*run, "law", "layer"), aic),
            "law_parameter": ((*run, "parameter", "layer"), parameter),
            "held_out": ((*run, "setting", "law", "layer"), held),
            "held_out_last": ((*run, "layer"), number * changes.get("last", 0.3)),
            "formed_value": (("text", "layer"), value),
            "written_attention": (("text", "layer"), 0 * mlp),
            "written_mlp": (("text", "layer"), mlp),
            "nll": (("text", "setting"), nll),
        },
        coords={
            "variant": arms,
            "seed": seeds,
            "layer": range(layers),
            "law": list(LAWS),
            "parameter": list(PARAMETERS),
            "setting": [*HELD, *formed.SETTINGS],
            "text": texts,
        },
    )


def outcome(claim_id: str, record: xr.Dataset) -> str:
    terms = CLAIMS[claim_id].terms
    return judge(lab.METRICS[terms.metric](record), terms).outcome


@pytest.mark.parametrize("claim_id", sorted(CLAIMS))
def test_a_record_as_the_papers_say_shows_every_claim(claim_id: str) -> None:
    assert outcome(claim_id, planted()) == "shown"


@pytest.mark.parametrize(
    ("claim_id", "changes"),
    [
        ("hidden-law-fits", {"r2": 0.7}),
        ("hidden-law-over-steps", {"aic": -1.0}),
        ("hidden-foretells", {"last": 0.02}),
        ("hidden-middle-layers", {"middle": 2.0}),
        ("hidden-early-peak", {"turned": 1}),
        ("hidden-heads", {"heads": -0.5}),
        ("sun-abrupt", {"stroke": 1000.0}),
        ("sun-mean", {"at_mean": 8.0}),
    ],
)
def test_the_opposite_contradicts(claim_id: str, changes: dict) -> None:
    assert outcome(claim_id, planted(**changes)) == "contradicted"


def test_every_metric_has_a_claim() -> None:
    assert {claim.terms.metric for claim in CLAIMS.values()} == set(lab.METRICS)


def test_curves_of_a_run_are_its_layers_over_its_steps() -> None:
    from gatescope.views import curves_frame

    frame = curves_frame(lab.layer_curves(planted(), "2 layers", 1), "massive_ratio")
    assert frame["variant"].unique().tolist() == ["layer 0", "layer 1"]
    assert frame["step"].max() == 288
    assert frame["massive_ratio"].max() == pytest.approx(10 * 1.001)


def test_the_table_of_the_search_says_what_was_reached() -> None:
    found = lab.search_table(planted())
    assert list(found.index) == list(runs.ARMS)
    assert found.loc[runs.BASE, "ratio at its largest"] == pytest.approx(20 * 1.002, rel=1e-3)
    assert (found["massive"] == 0).all()
