"""Records that grow: what is acknowledged is there, whatever kills the writer; what differs is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr
from gatescope import records
from gatescope.errors import DataError, Refusal
from gatescope.records import Appended, Quantity
from gatescope.records import append as module

ENTROPY = Quantity("entropy", ("layer", "head"), "nats", "attention entropy", "H", "Shannon 1948", "log n")
ERROR = Quantity("int8_error", ("site", "layer"), "1", "error", "e", "ours", "0")
LIVE = Quantity("gate_live", ("layer",), "1", "gate is alive", "any s > 0", "ours", "false")
MEAN = Quantity("m_act", (), "1", "mean", "mean", "ours", "0")
MASS = Quantity("key_mass", ("layer", "token"), "1", "key mass", "sum_i A[i,j]", "columns", "1/n")


def record(value=0.0, tokens=4, baseline=2.5, site="resid", **attrs):
    layers = {"layer": [1, 3]}
    return records.new(
        {
            "entropy": ENTROPY.variable(value + np.arange(6.0).reshape(2, 3), layers, baseline_value=baseline),
            "int8_error": ERROR.variable([[value, np.nan]], {"site": [site], **layers}, window=[1, None]),
            "gate_live": LIVE.variable(np.array([True, value > 2]), layers),
            "m_act": MEAN.variable(float(value)),
            "key_mass": MASS.variable(np.full((2, tokens), float(value)), layers),
        },
        seed=0,
        nested={"a": [True, None]},
        **attrs,
    )


def grown(path, n=5):
    rows = Appended(path)
    for step in range(n):
        rows.append(record(step), step * 10)
    return rows


@pytest.mark.parametrize("n", [1, 3, 130])
def test_it_is_what_concat_gives(tmp_path, n):
    path = tmp_path / "deep" / "run.zarr"
    wanted = records.concat([record(i, baseline=i // 2, n_tokens=i) for i in range(n)], "step", range(n))
    for start in range(0, n, 50):
        rows = Appended(path)
        for i in range(start, min(start + 50, n)):
            rows.append(record(i, baseline=i // 2, n_tokens=i), i)
    loaded = records.load(path)
    xr.testing.assert_identical(loaded, wanted)
    assert loaded.gate_live.dtype == bool
    assert (len(rows), rows.steps) == (n, list(range(n)))
    assert records.load(records.save(loaded, tmp_path / "r.nc")).identical(loaded)


def test_an_attribute_may_come_and_go(tmp_path):
    rows = Appended(tmp_path / "r.zarr")
    parts = [record(0, extra="x"), record(1), record(2, extra="x", new=1)]
    for step, part in enumerate(parts):
        rows.append(part, step)
    xr.testing.assert_identical(records.load(rows.path), records.concat(parts, "step", [0, 1, 2]))


def test_zarr_opens_it(tmp_path):
    grown(tmp_path / "r.zarr")
    opened = xr.open_zarr(tmp_path / "r.zarr", consolidated=False)
    assert opened.step.values.tolist() == [0, 10, 20, 30, 40]
    assert opened.entropy.dims == ("step", "layer", "head")
    assert opened.entropy.attrs["units"] == "nats"
    assert opened.site.values.tolist() == ["resid"]


def test_long_runs_do_not_leave_a_file_a_row(tmp_path):
    grown(tmp_path / "r.zarr", 129)
    assert len(list((tmp_path / "r.zarr" / "entropy" / "c").iterdir())) == 3


def test_later_rows_are_dropped_and_replaced(tmp_path):
    rows = grown(tmp_path / "r.zarr")
    assert rows.drop_after(45) == 0
    assert rows.drop_after(15) == 3
    assert records.load(rows.path).step.values.tolist() == [0, 10]
    rows.append(record(9.0), 20)
    loaded = records.load(rows.path)
    assert loaded.m_act.values.tolist() == [0, 1, 9]
    assert Appended(rows.path).drop_after(-1) == 3
    with pytest.raises(DataError, match=r"load: wanted rows in .*, got none; record a step first"):
        records.load(rows.path)


def test_a_step_twice_is_refused(tmp_path):
    rows = grown(tmp_path / "r.zarr", 2)
    with pytest.raises(Refusal, match=r"append: wanted a step after 10, got 10; drop the later rows: drop_after\(9\)"):
        rows.append(record(), 10)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: record(tokens=5), r"the same labels along token in every row \(4 in the first\), got 5 or other ones"),
        (lambda: record(tokens=3), r"along token .* measure a fixed batch, or batches of one length"),
        (lambda: record(site="hidden"), r"labels along site"),
        (lambda: record().drop_vars("m_act"), r"the same variables in every row, got \['m_act'\] in some"),
        (lambda: record().assign(m_act=record().m_act.astype("f4")), r"m_act along \(\) as float64, got .*float32"),
        (lambda: record().assign(m_act=record().m_act.assign_attrs(units="J")), r"one units for 'm_act', got '1' and"),
        (xr.Dataset, "a gatescope record"),
    ],
)  # fmt: skip
def test_a_row_unlike_the_first_is_refused(tmp_path, other, message):
    rows = grown(tmp_path / "r.zarr", 2)
    with pytest.raises(Refusal, match=message):
        rows.append(other(), 50)
    rows.append(record(2.0), 50)
    assert records.load(rows.path).m_act.values.tolist() == [0, 1, 2]


def test_a_record_along_steps_is_refused(tmp_path):
    with pytest.raises(Refusal, match="append: wanted a record of one step"):
        Appended(tmp_path / "r.zarr").append(records.concat([record()], "step", [0]), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused(tmp_path):
    rows = grown(tmp_path / "r.zarr", 2)
    Appended(rows.path).append(record(2.0), 20)
    with pytest.raises(DataError, match=r"to be the only one who writes .*r.zarr, got rows written by another process"):
        rows.append(record(), 30)
    assert records.load(rows.path).step.values.tolist() == [0, 10, 20]


@pytest.mark.parametrize("writes", [0, 1, 7])
def test_a_full_disk_is_said_and_loses_nothing(tmp_path, monkeypatch, writes):
    rows = grown(tmp_path / "r.zarr", 3)
    before, replace, done = records.load(rows.path), module._replace, []

    def full(path, content):
        if len(done) == writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        done.append(path)
        replace(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_replace", full)
        with pytest.raises(DataError, match=r"step 30 to .*'No space left on device'; free space .* 3 rows on disk"):
            rows.append(record(3.0), 30)
    xr.testing.assert_identical(records.load(rows.path), before)
    rows.append(record(3.0), 30)
    assert records.load(rows.path).m_act.values.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", ["chunk", "no chunk", "index", "no index", "metadata", "format"])
def test_damage_is_said(tmp_path, damage):
    path = grown(tmp_path / "r.zarr").path
    chunk = path / "entropy" / "c" / "0" / "0" / "0"
    if damage == "chunk":
        chunk.write_bytes(b"\1" + chunk.read_bytes()[1:])
    elif damage == "format":
        (path / "zarr.json").write_text('{"attributes": {"gatescope": {"format": 9, "rows": []}}}')
    elif damage.startswith("no"):
        (chunk if damage == "no chunk" else path / "zarr.json").unlink()
    else:
        (path / "zarr.json" if damage == "index" else path / "m_act" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"load: wanted .*r.zarr"):
        records.load(path)


KILLED = """
    import os, random, signal, sys, time
    import numpy as np
    import zarr  # before the forks, so that none pays for it
    from gatescope import records
    from gatescope.records import Appended, Quantity

    path, kills = sys.argv[1], int(sys.argv[2])
    names = [f"v{i}" for i in range(6)]
    made = [Quantity(name, ("layer", "head"), "1", "v", "v", "ours", "0") for name in names]

    def record(step):
        return records.new({q.name: q.variable(np.full((2, 3), step * 1.5 + i)) for i, q in enumerate(made)}, n=step)

    def write(told):
        rows = Appended(path)
        while True:
            step = len(rows)
            rows.append(record(step), step)
            os.write(told, f"{step} ".encode())

    def verify(acknowledged):
        loaded = records.load(path)
        n = loaded.sizes["step"]
        assert n >= acknowledged + 1, (n, acknowledged)
        assert loaded.step.values.tolist() == list(range(n))
        for i, name in enumerate(names):
            expected = np.arange(n)[:, None, None] * 1.5 + i
            assert (loaded[name].values == expected).all(), name

    def child(work, *args):
        pid = os.fork()
        if not pid:
            try:
                work(*args)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        return pid

    draw, total = random.Random(0), -1
    for kill in range(kills):
        ours, told = os.pipe()
        pid = child(write, told)
        os.close(told)
        first = os.read(ours, 1 << 16)
        time.sleep(draw.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), status
        said = first
        while part := os.read(ours, 1 << 16):
            said += part
        os.close(ours)
        total = int(said.split()[-1])
        if kill % 5 == 4:
            _, status = os.waitpid(child(verify, total), 0)
            assert status == 0, status
    print(total)
"""


def test_killed_at_random_moments_every_acknowledged_row_is_intact(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "r.zarr"), "30"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 30


def test_an_older_schema_says_what_to_do(tmp_path):
    old = record(gatescope="0.0.9").assign_attrs(gatescope_schema=0)
    old.attrs.pop("nested")
    for variable in old.data_vars.values():
        variable.attrs.pop("window", None)
    old.to_netcdf(tmp_path / "old.nc", engine="h5netcdf")
    message = r"load: wanted a record of schema 1 or newer, got schema 0 .*old.nc; measure again .* gatescope 0.0.9"
    with pytest.raises(DataError, match=message):
        records.load(tmp_path / "old.nc")


def test_a_schema_that_is_no_number_is_said():
    with pytest.raises(Refusal, match="wanted a whole number as gatescope_schema, got 'one'"):
        records.check(record().assign_attrs(gatescope_schema="one"))
