"""The entry script and the Makefile: old Pythons, arguments, targets."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bootstrap
import lab_launch
import pytest
from learner_copies import Copied
from setup_steps import Place, SetupError


@pytest.mark.parametrize("version", [(3, 8, 10), (3, 10, 0), (3, 15, 0)])
def test_a_python_without_wheels_gets_one_clear_line(version: tuple[int, ...]) -> None:
    message = bootstrap.refuse_python(version, "/usr/bin/python3")
    assert message is not None
    assert "wanted Python 3.11 to 3.14" in message
    assert "PYTHON=" in message


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 2)])
def test_a_python_with_wheels_will_do(version: tuple[int, ...]) -> None:
    assert bootstrap.refuse_python(version, "python") is None


def test_an_old_python_can_read_the_entry_script_far_enough_to_refuse(root: Path) -> None:
    source = (root / "scripts" / "bootstrap.py").read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in top for alias in node.names} <= {"argparse", "os", "sys"}


def test_lab_arguments_come_last_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for name in ("02_b.ipynb", "01_a.ipynb", "01_a.update.ipynb"):
        (tmp_path / "work" / name).touch()
    place = Place(tmp_path, sys.executable, (3, 11))
    command = lab_launch.lab_command(place, ["--no-browser", "--port", "9000"])
    assert command[-3:] == ["--no-browser", "--port", "9000"]
    assert "--ServerApp.ip=127.0.0.1" in command
    assert "--LabApp.default_url=/lab/tree/01_a.ipynb" in command
    assert not any("token" in word.lower() for word in command), "jupyter makes the token itself"
    (tmp_path / "work" / "00_start.ipynb").touch()
    assert "--LabApp.default_url=/lab/tree/00_start.ipynb" in lab_launch.lab_command(place, [])


OPEN = ("--ip=0.0.0.0", "--IdentityProvider.token=")


@pytest.mark.parametrize(
    ("words", "env", "refused"),
    [
        ((), {}, False),
        (("--IdentityProvider.token=''",), {}, False),  # on loopback
        (("--ip=0.0.0.0",), {}, False),  # jupyter makes a token
        (OPEN, {}, True),
        (("--ip", "0.0.0.0", "--ServerApp.token=''"), {}, True),
        (("--ServerApp.ip=::", "--ServerApp.token", ""), {}, True),
        (("--ip=0.0.0.0",), {"JUPYTER_TOKEN": ""}, True),
        (("--ip=0.0.0.0",), {"JUPYTER_TOKEN": "a secret"}, False),
        ((*OPEN, "--PasswordIdentityProvider.hashed_password=argon2:x"), {}, False),
    ],
)
def test_a_server_that_others_reach_keeps_its_token(words, env, refused) -> None:
    if not refused:
        lab_launch.refuse_open_server(words, env)
        return
    with pytest.raises(SetupError, match="token or a password for a server that listens on"):
        lab_launch.refuse_open_server(words, env)


def test_an_offered_update_is_said() -> None:
    said = lab_launch.describe(Copied("01_a.ipynb", "offered", "01_a.update.ipynb"))
    assert "yours is kept" in said
    assert "01_a.update.ipynb" in said
    assert lab_launch.describe(Copied("01_a.ipynb", "current")) == ""


def _make(root: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"PATH": path} if path else {})}
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHON"):
        env.pop(name, None)
    make = shutil.which("make")
    assert make, "make is needed to run the tests of the Makefile"
    return subprocess.run([make, "-n", *arguments], cwd=root, env=env, capture_output=True, text=True, check=False)


def test_make_passes_the_interpreter_and_the_arguments_on(root: Path) -> None:
    said = _make(root, "lab", "PYTHON=/opt/py", "LAB_ARGS=--no-browser --port=1").stdout
    assert "/opt/py scripts/bootstrap.py lab --no-browser --port=1" in said


def test_make_without_a_python_says_what_to_install(tmp_path: Path, root: Path) -> None:
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    result = _make(tmp_path, "lab", path=str(tmp_path / "bin"))
    assert result.returncode != 0
    assert "No Python 3.11 to 3.14" in result.stderr
