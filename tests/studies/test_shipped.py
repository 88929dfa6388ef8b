"""Every study of this project: grid possible, controls there, code named whole, points the same twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import xarray as xr
from gatescope.paths import data_dir
from gatescope.studies import expand, load, spec
from gatescope.studies.effects import effects
from gatescope.studies.expand import resolve
from gatescope.studies.gather import reduced
from gatescope.studies.keeping import kept, kept_grid, kept_table

#: Study -> points of it made small: together they execute all that its points execute.
SMALL: dict[str, list[dict[str, object]]] = {
    "gate-atlas": [
        {"steps": 2},
        {"steps": 2, "position": "sdpa", "activation": "non_sparse_sigmoid"},
        {
            "steps": 2,
            "position": "value",
            "granularity": "head",
            "sharing": "shared",
            "n_heads": 2,
            "activation": "silu",
        },
        {"steps": 2, "position": "output", "combine": "add", "activation": "linear"},
        {"steps": 2, "position": "query", "source": "none", "activation": "tanh"},
        {"steps": 2, "position": "key"},
    ],
}
SMALL["experts"] = [
    {"steps": 2, "k": 2},
    {"steps": 2, "experts": 4, "balancing": "loss"},
    {"steps": 2, "experts": 16, "k": 4, "balancing": "bias"},
]
SMALL["gaussian-rates"] = [
    {"samples": 40, "replicates": 2},
    {"samples": 40, "replicates": 2, "experts": 5, "k": 3},
]
SMALL["learning-rates"] = SMALL["gate-atlas"][:1]
SMALL["byte-atlas"] = [{"steps": 2}, {"steps": 2, "position": "sdpa", "activation": "silu", "combine": "add"}]
SMALL["context-extrapolation"] = [{"steps": 2, "sink": "learned"}, {"steps": 2, "encoding": "none"}]
SMALL["stability"] = [{"steps": 2, "position": "value"}]
SMALL["emergence"] = [{"steps": 8}, {"steps": 8, "task": "bytes", "optimizer": "sgd", "n_layers": 2, "d_model": 8}]
SMALL["hybrid-ratios"] = [
    {"steps": 2},
    {"steps": 2, "kind": "gla", "full": 1, "task": "bytes"},
    {"steps": 2, "kind": "delta", "full": 0},
    {"steps": 2, "kind": "scalar", "full": 2},
]
#: (study, metric) -> the small points that have no such number, by their place.
WITHOUT = {("gate-atlas", name): {0} for name in ("gate_mean", "gate_closed", "gate_live")}
WITHOUT |= {("learning-rates", name): places for (_, name), places in WITHOUT.items()}
WITHOUT |= {("gaussian-rates", f"error_shared{which}"): {0} for which in ("", "_gate", "_scale")}
WITHOUT |= {("byte-atlas", name): {0} for name in ("gate_mean", "gate_closed", "gate_token_variance")}
WITHOUT |= {
    ("context-extrapolation", metric.name): {1}
    for metric in load("context-extrapolation").metrics
    if metric.variable.endswith("_stretched")
}
WITHOUT |= {("hybrid-ratios", "accuracy"): {1}, ("hybrid-ratios", "loss"): {0, 2, 3}}
#: They carry numbers and make none.
BOOKKEEPING = ("gatescope.records.", "gatescope.specs", "gatescope.errors")


@pytest.fixture(scope="module", params=sorted(SMALL))
def measured(request):
    """A study, the records of its small points, made twice, and the files that the second time executed."""
    study = load(request.param)
    function, config = resolve(study.point)
    runs = [config(**changes) for changes in SMALL[request.param]]
    first = [function(run) for run in runs]
    executed: set[str] = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_name != "<module>":
            executed.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        second = [function(run) for run in runs]
    finally:
        sys.setprofile(None)
    return study, first, second, executed


def test_every_study_has_small_points_here():
    assert set(SMALL) == set(spec.names())


@pytest.mark.parametrize("name", spec.names())
def test_every_point_is_possible_and_has_its_control(name):
    study = load(name)
    grid = expand(study)
    assert grid.impossible == ()
    configs = [point.config for point in grid.points]
    assert len({config[study.replicate] for config in configs}) >= 3
    of_controls = {
        tuple(config[axis] for axis in (*study.match, study.replicate))
        for config in configs
        if all(config[axis] == value for axis, value in study.control.items())
    }
    assert {tuple(config[axis] for axis in (*study.match, study.replicate)) for config in configs} == of_controls


def test_a_study_names_all_the_code_that_its_points_execute(measured, root):
    study, _, _, executed = measured
    modules = {
        ".".join(Path(path).relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        for base in (root / "toolkit", root / "kernels")
        for path in executed
        if Path(path).is_relative_to(base)
    }
    assert {name for name in modules if not name.startswith(BOOKKEEPING)} - set(study.code) == set()
    assert modules


def test_a_point_is_a_pure_function_with_every_metric(measured):
    study, first, second, _ = measured
    for place, (record, again) in enumerate(zip(first, second, strict=True)):
        xr.testing.assert_identical(record, again)
        joined = record.expand_dims("point")
        for metric in study.metrics:
            if place in WITHOUT.get((study.name, metric.name), ()):
                assert metric.variable not in record
            else:
                assert reduced(metric, joined).shape == (1,)


@pytest.mark.parametrize("path", sorted((data_dir() / "measured" / "studies").glob("*.nc")), ids=lambda path: path.stem)
def test_a_kept_study_names_its_variants_as_its_effects_do(path):
    study, record = load(path.stem), kept(path.stem)
    grid, frame = kept_grid(study, record), kept_table(record)
    told = {effect.label for metric in study.metrics for effect in effects(grid, frame, metric)}
    assert told == set(record.variant.values.tolist())
