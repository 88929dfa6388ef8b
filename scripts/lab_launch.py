"""Open JupyterLab on the learner's copies: loopback only, with its token, without update checks or news."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from learner_copies import Copied, copy_notebooks
from setup_steps import Place, SetupError

FIRST = "00_start.ipynb"
#: Lies in the venv, so that a person's own JupyterLab settings are left as they are and still win.
OVERRIDES = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def launch(place: Place, lab_args: Sequence[str]) -> None:
    """Copy the notebooks and become JupyterLab; does not return."""
    try:
        for copied in copy_notebooks(place.root / "notebooks", place.work):
            if line := describe(copied):
                print(line)
    except OSError as error:
        raise SetupError(
            "work/", f"to write the learner's copies into {place.work}", str(error), "allow writing there"
        ) from error
    quieten(place.venv)
    command = lab_command(place, lab_args)
    print("Opening JupyterLab on work/ (Ctrl-C twice stops it) ...", flush=True)
    os.chdir(place.work)
    os.execve(command[0], command, dict(place.env))


def lab_command(place: Place, lab_args: Sequence[str]) -> list[str]:
    """The command that opens JupyterLab; ``lab_args`` come last and so win."""
    names = sorted(path.name for path in place.work.glob("*.ipynb"))
    first = FIRST if FIRST in names or not names else names[0]
    command = [
        place.python,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={place.work}",
        f"--LabApp.default_url=/lab/tree/{first}" if names else "--LabApp.default_url=/lab",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",  # the other one asks a package index
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; the server is on loopback with its token
        command.append("--allow-root")
    return [*command, *lab_args]


def quieten(venv: Path) -> None:
    """Switch JupyterLab's news and update pop-ups off for this venv."""
    settings = venv / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(OVERRIDES), encoding="utf-8")


def describe(copied: Copied) -> str:
    """What the learner is told about one notebook; nothing when nothing happened."""
    if copied.outcome == "new":
        return f"work/{copied.name}: copied"
    if copied.outcome == "refreshed":
        return f"work/{copied.name}: refreshed (you had not changed it)"
    if copied.outcome == "offered":
        return f"work/{copied.name}: yours is kept; the new edition lies beside it as {copied.offered_as}"
    return ""
