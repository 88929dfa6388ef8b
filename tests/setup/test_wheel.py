"""`pip install` of the packages alone: what is in the wheel, and what each subcommand says without a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from packaging.requirements import Requirement

ALONE = Path(__file__).with_name("alone.py")
SOURCES = {"toolkit": "gatescope", "kernels": "gatescope_kernels", "lessons": "gatescope_lessons"}
#: Needs notebooks or data: refused, with what to do.
REFUSED = ("build", "bundle course.zip", "claims", "progress", "run", "site", "systems")
WORKS = ("--help", "--version", "doctor", "study list", "study cost", "compare record0.nc record1.nc")
HELP = ("scan --help", "compare --help", "bench --help", "compile-report --help", "run --help", "progress --help")
WRONG = {
    "scan nowhere --prompt hello --out scanned": "scan: wanted",
    "compare record0.nc nothing.nc": "nothing.nc",
    "bench --op none": "bench: wanted --op one of",
    "study run none": "wanted",
}


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    """The folder that the wheel and the sdist were built into."""
    require("hatchling")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=root, check=True)
    return out


@pytest.fixture(scope="module")
def shipped(root: Path) -> set[str]:
    """What git has of the three packages, as the wheel names it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *SOURCES]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name.partition("/")[2] for name in listed if name and (root / name).is_file()}


def test_the_wheel_holds_what_git_has_of_the_packages(built: Path, shipped: set[str]) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == shipped
    for name in ("gatescope/panels/plot.js", "gatescope_lessons/glossary.toml", "gatescope/studies/gate-atlas.toml"):
        assert name in names
    assert {name.split("/")[0] for name in names} == set(SOURCES.values())


def test_a_wheel_made_from_the_sdist_would_be_the_same(built: Path, shipped: set[str]) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    inside = {name.partition("/")[2] for name in names if name.startswith(tuple(f"{room}/" for room in SOURCES))}
    assert inside == shipped
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    assert not any(name.startswith(("data/", "notebooks/", "tests/", "work/")) for name in names)


def test_all_that_building_asks_for_is_pinned(root: Path, require: Callable[..., None]) -> None:
    require("hatchling")
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = dict(pin.split("==") for pin in pyproject["build-system"]["requires"])
    ask = "import json, hatchling.build as b; print(json.dumps(b.get_requires_for_build_editable()))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=root, capture_output=True, text=True, check=True)
    for text in json.loads(done.stdout):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[wanted.name]), text
    assert f"hatchling=={pinned['hatchling']}" in pyproject["project"]["optional-dependencies"]["dev"]


@pytest.fixture(scope="module")
def alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `alone.py` found in a fresh environment with the wheel; its dependencies are lent by this one."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    python = home / "venv" / "bin" / "python"
    lib = next((home / "venv").glob("lib/python*/site-packages"))
    (lib / "lent.pth").write_text(str(Path(numpy.__file__).parents[1]))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(next(built.glob("*.whl")))], check=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GATESCOPE_", "XDG_", "PYTHON"))}
    words = json.dumps([*REFUSED, *WORKS, *HELP, *WRONG])
    done = subprocess.run(
        [str(python), str(ALONE), words],
        cwd=home,
        env={**env, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {"home": home, **json.loads(done.stdout.splitlines()[-1])}


def test_the_toolkit_measures_a_model_and_keeps_its_record(alone: dict) -> None:
    assert Path(alone["file"]).is_relative_to(alone["home"])
    assert 0 < alone["scan"]["first_attention"] < 1
    assert alone["scan"]["commit"] == "unknown"
    assert alone["cache"] == str(alone["home"] / ".cache" / "gatescope")


@pytest.mark.parametrize("words", REFUSED)
def test_what_needs_a_checkout_says_so_and_what_to_do(alone: dict, words: str) -> None:
    answer = alone["asked"][words]
    assert answer["code"] == 2
    assert "wanted a checkout" in answer["said"]
    assert "clone the repository or unpack the course" in answer["said"]
    assert len(answer["said"].splitlines()) == 1


@pytest.mark.parametrize("words", [*WORKS, *HELP])
def test_what_needs_none_works(alone: dict, words: str) -> None:
    assert alone["asked"][words]["code"] == 0, alone["asked"][words]["said"]


@pytest.mark.parametrize("words", WRONG)
def test_what_is_asked_wrongly_is_refused_in_a_line(alone: dict, words: str) -> None:
    answer = alone["asked"][words]
    assert (answer["code"], len(answer["said"].splitlines())) == (2, 1), answer["said"]
    assert WRONG[words] in answer["said"]


def test_the_doctor_knows_that_there_is_no_checkout(alone: dict) -> None:
    said = alone["asked"]["doctor"]["said"]
    assert "the packages are installed alone" in said
    assert "make test" not in said


def test_every_subcommand_was_asked(root: Path) -> None:
    points = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    asked = {words.split()[0] for words in (*REFUSED, *WORKS, *HELP, *WRONG)}
    assert points["gatescope.commands"].keys() - asked == set()
