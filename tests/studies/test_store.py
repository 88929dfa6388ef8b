"""The store: what is kept is whole, the first writer stands, claims end with their holder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import toy_points
import xarray as xr
from gatescope.errors import DataError, Refusal
from gatescope.studies import Store, expand


@pytest.fixture
def point(toy):
    return expand(toy()).points[0]


def test_a_record_comes_back_as_it_was(store, point):
    record = toy_points.measure(toy_points.Toy(seed=3))
    assert store.put(point, record, {"seconds": 1.5})
    assert store.finished() == {point.address}
    xr.testing.assert_identical(store.record(point.address), record)
    assert store.about(point.address)["config"] == point.config
    assert store.seconds([point.address, "unknown"]) == [1.5]


def test_a_record_along_step_is_its_rows(store, point):
    record = toy_points.measure_curve(toy_points.Toy())
    assert record.sizes["step"] == 3
    store.put(point, record, {})
    xr.testing.assert_identical(store.record(point.address), record)


def test_of_two_writers_the_first_stands(store, point):
    first, second = (toy_points.measure(toy_points.Toy(seed=seed)) for seed in (1, 2))
    assert store.put(point, first, {})
    assert not Store(store.folder).put(point, second, {})
    xr.testing.assert_identical(store.record(point.address), first)
    assert [path.name for path in (store.folder / "points").iterdir()] == [point.address]


def test_what_zarr_cannot_hold_is_refused_and_leaves_nothing(store, point):
    with pytest.raises(Refusal, match="numbers and booleans"):
        store.put(point, toy_points.measure(toy_points.Toy(act="text")), {})
    assert list((store.folder / "points").iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(store, point, monkeypatch):
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(DataError, match="No space left"):
        store.put(point, toy_points.measure(toy_points.Toy()), {})
    monkeypatch.undo()
    assert store.finished() == set()
    assert store.put(point, toy_points.measure(toy_points.Toy()), {})


def test_damage_is_found_on_reading(store, point):
    store.put(point, toy_points.measure(toy_points.Toy()), {"seconds": 1.0})
    (chunk,) = (store.folder / "points" / point.address / "record.zarr/loss/c").rglob("0")
    chunk.write_bytes(b"\1" * len(chunk.read_bytes()))
    with pytest.raises(DataError, match="not what was written"):
        store.record(point.address)
    (store.folder / "points" / point.address / "point.json").write_text("{")
    with pytest.raises(DataError, match=r"a readable .*point\.json"):
        store.about(point.address)
    assert store.seconds([point.address]) == []


def test_a_failure_is_forgotten_once_the_point_is_measured(store, point):
    store.fail(point, "Traceback ...\nZeroDivisionError: x", {"host": "here"})
    assert store.failures()[point.address]["error"].endswith("ZeroDivisionError: x")
    store.put(point, toy_points.measure(toy_points.Toy()), {})
    assert store.failures() == {}


def test_a_claim_is_held_by_one_and_ends_with_its_holder(store):
    code = f"""
        import sys
        from gatescope.studies import Store
        with Store({str(store.folder)!r}).claim("one") as ours:
            print(ours, flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "True\n"
        with store.claim("one") as ours, store.claim("two") as other:
            assert (ours, other) == (False, True)
            assert store.claimed() == {"one", "two"}
        assert store.claimed() == {"one"}
        holder.kill()
    with store.claim("one") as ours:
        assert ours


def test_old_drafts_are_swept_and_young_ones_are_left(store):
    old, young = (store.folder / "points" / f".draft-{name}" for name in ("old", "young"))
    for draft in (old, young):
        draft.mkdir(parents=True)
    os.utime(old, (0, 0))
    store.sweep()
    assert not old.exists()
    assert young.exists()
    assert store.finished() == set()
