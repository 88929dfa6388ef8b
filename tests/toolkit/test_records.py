"""Records: definitions travel with the numbers, files are whole and repeatable, joins say what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from gatescope import records
from gatescope.errors import DataError, Refusal
from gatescope.records import REQUIRED_ATTRS, SCHEMA, Quantity, provenance

ENTROPY = Quantity("entropy", ("layer", "head"), "nats", "attention entropy", "H", "Shannon 1948", "log n")
MASS = Quantity("key_mass", ("layer", "token"), "1", "key mass", "sum_i A[i,j]", "columns", "1/n")
LIVE = Quantity("gate_live", ("layer",), "1", "gate is alive", "any s > 0", "ours", "false")


def record(layers=2, tokens=4, gate=True, value=1.0, **attrs):
    variables = {
        "entropy": ENTROPY.variable(value * np.ones((layers, 3)), baseline_value=2.5),
        "key_mass": MASS.variable(value * np.arange(layers * tokens, dtype=float).reshape(layers, tokens)),
    }
    if gate:
        variables["gate_live"] = LIVE.variable(np.arange(layers) % 2 == 0)
    return records.new(variables, **attrs)


def test_a_variable_carries_its_definition():
    variable = ENTROPY.variable(np.zeros((2, 3)), {"layer": [4, 7]}, baseline_value=1, epsilon=0.3)
    assert set(REQUIRED_ATTRS) | {"baseline_value", "epsilon"} == set(variable.attrs)
    assert variable.attrs["units"] == "nats"
    assert variable.layer.values.tolist() == [4, 7]
    assert variable["head"].values.tolist() == [0, 1, 2]


def test_describe_is_a_table_of_definitions():
    table = records.describe(record())
    assert isinstance(table, pd.DataFrame)
    assert table.set_index("variable").loc["entropy", "unit"] == "nats"
    assert set(table.columns) == set(ENTROPY.row())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantity("x", ("layers",), "1", "", "", "", ""), r"Quantity: wanted dims among .*\['layers'\] in 'x'"),
        (lambda: ENTROPY.variable(np.zeros(2)), r"entropy: wanted 2 dimensions \('layer', 'head'\), got shape \(2,\)"),
        (
            lambda: records.new({"x": xr.DataArray([1.0], dims="layer", attrs={"units": "1"})}),
            r"got 'x' without long_name, formula, source, baseline; make the variable with records.Quantity",
        ),
        (
            lambda: records.describe(xr.Dataset()),
            r"describe: wanted a gatescope record .*, got a dataset without; make it with records.new",
        ),
    ],
)
def test_a_record_without_definitions_is_refused(make, message):
    with pytest.raises(Refusal, match=message):
        make()


def test_no_torch_and_no_plots_are_imported():
    heavy = "{'torch', 'matplotlib', 'plotly', 'transformers', 'IPython'}"
    code = (
        f"import sys, gatescope.records; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class TestProvenance:
    def test_what_is_given_is_kept_and_what_is_not_is_left_out(self):
        about = provenance(dtype="float32", seed=0, n_samples=2, torch="2.0")
        assert (about["dtype"], about["seed"], about["n_samples"], about["torch"]) == ("float32", 0, 2, "2.0")
        assert "n_tokens" not in about
        assert isinstance(about["dirty"], bool)
        assert about["created"].endswith("+00:00")

    def test_the_time_can_be_left_out(self):
        assert "created" not in provenance(created=False)

    def test_the_installed_torch_is_found_without_importing_it(self):
        from importlib.metadata import version

        assert provenance()["torch"] == version("torch")

    @pytest.mark.parametrize("failure", [FileNotFoundError(), subprocess.CalledProcessError(128, "git")])
    def test_outside_git_the_commit_is_unknown(self, monkeypatch, failure):
        def fail(*_, **__):
            raise failure

        monkeypatch.setattr(subprocess, "run", fail)
        assert sys.modules["gatescope.records.provenance"]._commit.__wrapped__() == ("unknown", False)


ATTRS = {
    "yes": True,
    "no": False,
    "text": "json:not really",
    "empty": "",
    "greek": "α",
    "count": 3,
    "share": 0.25,
    "nothing": None,
    "list": [1, "a", True],
    "nested": {"a": {"b": [0.5]}},
}


class TestFiles:
    def test_everything_survives_the_round_trip(self, tmp_path):
        saved = record(**ATTRS)
        saved["entropy"].attrs["masked"] = True
        saved = saved.assign_coords(variant=("layer", ["soft", "gated"]))
        loaded = records.load(records.save(saved, tmp_path / "deep" / "r.nc"))
        assert loaded.identical(saved)
        assert {name: loaded.attrs[name] for name in ATTRS} == ATTRS
        assert all(type(loaded.attrs[name]) is type(value) for name, value in ATTRS.items())
        assert loaded.gate_live.dtype == bool

    def test_numpy_attributes_become_plain_numbers(self, tmp_path):
        saved = record(count=np.int64(3), share=np.float32(0.5), yes=np.bool_(True))
        attrs = records.load(records.save(saved, tmp_path / "r.nc")).attrs
        assert (attrs["count"], attrs["share"], attrs["yes"]) == (3, 0.5, True)

    def test_saving_does_not_change_the_record(self, tmp_path):
        saved = record(yes=True)
        before = saved.copy(deep=True)
        records.save(saved, tmp_path / "r.nc")
        assert saved.identical(before)

    def test_the_same_record_gives_the_same_bytes(self, tmp_path):
        one = records.save(record(**ATTRS), tmp_path / "one.nc").read_bytes()
        two = records.save(records.load(tmp_path / "one.nc"), tmp_path / "two.nc").read_bytes()
        assert one == two

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        path = records.save(record(), tmp_path / "r.nc")
        before = path.read_bytes()
        with pytest.raises(Refusal, match=r"save: wanted attributes of strings, .*, got object in attribute 'x'"):
            records.save(record(x=object()), path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["r.nc"]

    def test_a_write_that_breaks_off_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = records.save(record(), tmp_path / "r.nc")
        before = path.read_bytes()

        def break_off(temporary, content):
            temporary.write_text("half a file")
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_bytes", break_off)
        with pytest.raises(KeyboardInterrupt):
            records.save(record(value=2.0), path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["r.nc"]

    def test_a_missing_file_is_said(self, tmp_path):
        with pytest.raises(DataError, match=r"load: wanted a record \(netCDF\), got no file .*gone.nc; check the path"):
            records.load(tmp_path / "gone.nc")

    @pytest.mark.parametrize("damage", ["empty", "foreign", "half", "last bytes"])
    def test_a_damaged_file_is_said(self, tmp_path, damage):
        path = records.save(record(), tmp_path / "r.nc")
        whole = path.read_bytes()
        bytes_of = {"empty": b"", "foreign": b"PK" * 500, "half": whole[: len(whole) // 2], "last bytes": whole[:-16]}
        path.write_bytes(bytes_of[damage])
        with pytest.raises(DataError, match=r"load: wanted a readable netCDF file, got .*r.nc \(.*\); delete it"):
            records.load(path)

    def test_a_netcdf_file_of_somebody_else_is_said(self, tmp_path):
        xr.Dataset({"x": ("y", [1.0])}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        with pytest.raises(DataError, match=r"load: wanted a gatescope record .*, got a dataset without in .*x.nc"):
            records.load(tmp_path / "x.nc")

    def test_a_newer_schema_is_said(self, tmp_path):
        record().assign_attrs(gatescope_schema=SCHEMA + 1).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        with pytest.raises(DataError, match=rf"load: wanted a record of schema {SCHEMA} or older, .*; update"):
            records.load(tmp_path / "x.nc")


class TestConcat:
    def test_values_and_labels_keep_their_order(self):
        joined = records.concat([record(value=v) for v in (3.0, 1.0)], "variant", ["soft", "gated"])
        assert joined.entropy.dims == ("variant", "layer", "head")
        assert joined.variant.values.tolist() == ["soft", "gated"]
        assert joined.entropy.sel(variant="soft").values == pytest.approx(3)
        assert joined.entropy.attrs["units"] == "nats"
        assert joined.gate_live.dtype == bool

    def test_a_variable_some_lack_is_nan_there_and_said(self):
        joined = records.concat([record(gate=False), record()], "variant", ["soft", "gated"])
        assert np.isnan(joined.gate_live.sel(variant="soft")).all()
        assert joined.gate_live.sel(variant="gated").values.tolist() == [1, 0]
        assert joined.gate_live.attrs["missing_in"] == "soft"
        assert "missing_in" not in joined.entropy.attrs

    def test_layers_and_tokens_only_some_have_are_nan(self):
        joined = records.concat([record(layers=2, tokens=3), record(layers=1, tokens=5)], "text", ["a", "b"])
        assert np.isnan(joined.key_mass.sel(text="b", layer=1)).all()
        assert np.isnan(joined.key_mass.sel(text="a", token=4)).all()
        assert joined.gate_live.dtype == float
        assert joined.gate_live.sel(text="a").values.tolist() == [1, 0]

    def test_attributes_that_differ_become_coordinates(self):
        joined = records.concat([record(seed=0, task="t"), record(seed=1, task="t")], "variant", ["a", "b"])
        assert joined.attrs["task"] == "t"
        assert "seed" not in joined.attrs
        assert joined.seed.values.tolist() == [0, 1]

    def test_it_can_be_done_twice_and_saved(self, tmp_path):
        by_seed = [
            records.concat([record(seed=s, value=s + 1.0, gate=g) for s in (0, 1)], "seed", [0, 1])
            for g in (True, False)
        ]
        joined = records.concat(by_seed, "variant", ["gated", "soft"])
        assert dict(joined.entropy.sizes) == {"variant": 2, "seed": 2, "layer": 2, "head": 3}
        assert records.load(records.save(joined, tmp_path / "r.nc")).identical(joined)

    def test_a_baseline_that_differs_is_dropped(self):
        other = record()
        other["entropy"].attrs["baseline_value"] = 9.0
        joined = records.concat([record(), other], "text", ["a", "b"])
        assert "baseline_value" not in joined.entropy.attrs
        assert records.concat([record(), record()], "text", ["a", "b"]).entropy.attrs["baseline_value"] == 2.5

    @pytest.mark.parametrize("attr", ["units", "formula"])
    def test_other_definitions_are_refused(self, attr):
        other = record()
        other["entropy"].attrs[attr] = "other"
        with pytest.raises(Refusal, match=rf"concat: wanted one {attr} for 'entropy', got '\w+' and 'other'; measure"):
            records.concat([record(), other], "seed", [0, 1])

    @pytest.mark.parametrize(
        ("given", "dim", "labels", "message"),
        [
            (0, "seed", [], "wanted at least one record, got none"),
            (2, "seed", [0], r"wanted 2 different labels, one a record, got \[0\]"),
            (2, "seed", [0, 0], r"got \[0, 0\]; name each record once"),
            (1, "colour", ["red"], r"wanted a dim among .*, got 'colour'; add a row to dims.py"),
            (1, "layer", [0], r"wanted records without a dim 'layer', got one in 0; select one layer"),
        ],
    )
    def test_arguments_are_checked(self, given, dim, labels, message):
        with pytest.raises(Refusal, match=message):
            records.concat([record()] * given, dim, labels)


class TestMerge:
    def test_quantities_of_different_layers_stand_side_by_side(self):
        one = records.new({"entropy": ENTROPY.variable(np.ones((1, 3)), {"layer": [1]})})
        two = records.new({"gate_live": LIVE.variable(np.array([True, False]))})
        merged = records.merge([one, two], seed=0)
        assert merged.gate_live.values.tolist() == [1, 0]
        assert np.isnan(merged.entropy.sel(layer=0)).all()
        assert merged.attrs["seed"] == 0
        assert merged.entropy.attrs["formula"] == "H"

    def test_the_same_variable_twice_is_refused(self):
        with pytest.raises(Refusal, match=r"merge: wanted each variable once, got \['entropy', .*\] twice; leave one"):
            records.merge([record(), record()])
