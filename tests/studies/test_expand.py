"""Studies as files, grids, overrides and addresses: what is wrong is named, what is equal has one address."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gatescope.errors import Refusal
from gatescope.studies import address, expand, load, names
from gatescope.studies import spec as spec_module

FILE = """
title = "A toy"
point = "toy_points:measure"
code = ["toy_points"]
match = ["rate"]

[control]
kind = "plain"

[axes]
seed = [0, 1]

[[grid]]
kind = ["plain", "gated"]

[[grid]]
kind = "wide"
seed = [0, 1, 2]

[[metric]]
name = "first"
variable = "first_attention"
over = { layer = "max", head = "mean" }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_processes_are_read(tmp_path):
    assert load(written(tmp_path, "processes = 4\n" + FILE)).processes == 4


def test_a_file_is_a_union_of_products(tmp_path):
    study = load(written(tmp_path, FILE))
    assert study.grids == ({"seed": (0, 1), "kind": ("plain", "gated")}, {"seed": (0, 1, 2), "kind": ("wide",)})
    assert study.metrics[0].over == {"layer": "max", "head": "mean"}
    grid = expand(study)
    assert [grid.label(point.config) for point in grid.points] == [
        f"kind={kind} seed={seed}"
        for seed, kinds in ((0, ("plain", "gated", "wide")), (1, ("plain", "gated", "wide")), (2, ("wide",)))
        for kind in kinds
    ]
    assert grid.points[0].config == {"kind": "plain", "rate": 0.5, "seed": 0, "act": "measure", "wait": 0.0}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[axes]", "[axis]", "did you mean 'axes'"),
        ("title =", "titel =", "did you mean 'title'"),
        ('"max"', '"maxx"', "a reduction of"),
        ("seed = [0, 1]\n", "sed = [0, 1]\n", "the axis 'seed' on every grid"),
        ('kind = ["plain", "gated"]', 'kin = ["plain"]', "did you mean 'kind'"),
        ('match = ["rate"]', 'match = ["ratte"]', "did you mean 'rate'"),
        ('variable = "first_attention"', "", "name and variable"),
        ('variable = "first_attention"', 'variabel = "loss"', "did you mean 'variable'"),
        ("toy_points:measure", "toy_points:mesure", "no attribute 'mesure'"),
        ("toy_points:measure", "toy_points:Path", "point = 'module:function' of one annotated argument"),
        ('code = ["toy_points"]', 'code = ["toy_pointz"]', "modules that exist"),
        ("[[grid]]", "[[grid", "TOMLDecodeError"),
    ],
)
def test_a_wrong_file_is_refused_with_the_nearest_word(tmp_path, old, new, said):
    with pytest.raises(Refusal, match=said.replace("[", r"\[")):
        expand(load(written(tmp_path, FILE.replace(old, new, 1))))


def test_an_unknown_study_is_refused():
    with pytest.raises(Refusal, match="wanted a study of this project"):
        load("gate-atlass")
    assert all(load(name).name == name for name in names())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sede=1"], "did you mean 'seed'"),
        (["kind=gatd"], "did you mean 'gated'"),
        (["seed=one"], "wanted seed as int, got 'one'"),
        (["seed"], "AXIS=VALUE"),
        (["seed="], "AXIS=VALUE"),
        (["seed=1", "seed=2"], "seed once"),
    ],
)
def test_a_wrong_override_is_refused_with_the_nearest_word(toy, overrides, said):
    with pytest.raises(Refusal, match=said):
        expand(toy(), overrides)
    with pytest.raises(Refusal, match=said):
        expand(toy(), only=overrides)


def test_overrides_replace_and_only_keeps(toy):
    grid = expand(toy(), ["seed=4,5", "rate=5e-1,1"], ["kind=gated"])
    assert [(p.config["kind"], p.config["seed"], p.config["rate"]) for p in grid.points] == [
        ("gated", seed, rate) for seed in (4, 5) for rate in (0.5, 1.0)
    ]
    with pytest.raises(Refusal, match="none left"):
        expand(toy(), only=["seed=9"])


def test_a_label_says_what_is_not_the_default(toy):
    grid = expand(toy(), ["rate=0.5,0.4", "seed=0"])
    assert [grid.label(point.config) for point in grid.points] == [
        "kind=plain seed=0",
        "kind=plain rate=0.4 seed=0",
        "kind=gated seed=0",
        "kind=gated rate=0.4 seed=0",
    ]
    alone = expand(toy(control={}, match=()), ["kind=plain", "seed=0"])
    assert alone.label({"kind": "plain"}) == "the defaults"


def test_an_impossible_combination_is_named_and_the_rest_stands(toy):
    grid = expand(toy(), ["kind=plain,wide", "rate=0.5,0.7", "seed=0"])
    assert len(grid.points) == 3
    (refused,) = grid.impossible
    assert refused.config == {"kind": "wide", "rate": 0.7, "seed": 0}
    assert "rate <= 0.5 for kind 'wide'" in refused.reason


def test_points_that_come_twice_are_one(toy):
    axes = {"kind": ("plain",), "seed": (0, 1)}
    assert len(expand(toy(grids=(axes, {**axes, "rate": (0.5, 0.6)}))).points) == 4


def test_the_address_depends_on_config_code_and_data_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "some_room"
    source.mkdir()
    (source / "__init__.py").write_text("")

    def version(text: str) -> str:
        (source / "part.py").write_text(text)
        address._syntax.cache_clear()
        return address.code_version(["some_room"])

    first = version("def f(x):\n    return x + 1\n")
    assert version('"""Says."""\n\ndef f( x ):  # why\n    """Adds."""\n    return x + 1\n') == first
    assert version("def f(x):\n    return x + 2\n") != first
    ours = address.Versions(first, address.data_version([]))
    held = address.address("m:f", {"a": 1, "b": 2}, ours)
    assert held == address.address("m:f", {"b": 2, "a": 1}, ours)
    others = [
        address.address("m:g", {"a": 1, "b": 2}, ours),
        address.address("m:f", {"a": 1, "b": 3}, ours),
        address.address("m:f", {"a": 1, "b": 2}, address.Versions("other", ours.data)),
        address.address("m:f", {"a": 1, "b": 2}, address.Versions(ours.code, "other")),
    ]
    assert held not in others
    with pytest.raises(Refusal, match="no-such-file"):
        address.data_version(["no-such-file"])
    assert address.data_version(["measured/l02_one_gate_no_sink.nc"]) != ours.data


def test_a_study_is_told_apart_without_torch_or_xarray():
    code = (
        "import gatescope.studies, gatescope.studies.command, sys\n"
        "print([name for name in ('torch', 'xarray', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metrics_and_grids_are_demanded(toy):
    for changes, said in (
        ({"grids": ()}, "at least one"),
        ({"metrics": ()}, "at least one"),
        ({"grids": ({"kind": ("plain",)},)}, "the axis 'seed'"),
        ({"grids": ({"kind": (), "seed": (0,)},)}, "a value on every axis"),
    ):
        with pytest.raises(Refusal, match=said):
            toy(**changes)
    with pytest.raises(Refusal, match="better"):
        spec_module.Metric(name="a", variable="a", better="more")  # type: ignore[arg-type]
    with pytest.raises(Refusal, match=r"\['layer'\] under both"):
        spec_module.Metric(name="a", variable="a", at={"layer": 0}, over={"layer": "max"})


def test_a_study_like_another_takes_what_it_does_not_say(tmp_path):
    own = 'title = "Mine"\nlike = "gate-atlas"\n[[grid]]\nposition = "none"\nseed = [7]\n'
    study, model = load(written(tmp_path, own)), load("gate-atlas")
    assert (study.title, study.name, study.grids) == ("Mine", "own", ({"position": ("none",), "seed": (7,)},))
    assert (study.code, study.metrics, study.control, study.match) == (
        model.code,
        model.metrics,
        model.control,
        model.match,
    )


@pytest.mark.parametrize(
    ("like", "said"), [("gate-atlass", "did you mean 'gate-atlas'"), ("learning-rates", "name 'gate-atlas'")]
)
def test_a_study_like_none_that_stands_for_itself_is_refused(tmp_path, like, said):
    with pytest.raises(Refusal, match=said):
        load(written(tmp_path, f'title = "Mine"\nlike = "{like}"\n[[grid]]\nseed = [7]\n'))


def test_every_study_of_the_project_expands():
    for name in names():
        grid = expand(load(name))
        assert grid.points
        assert grid.impossible == ()
