"""Open JupyterLab on the learner's copies: loopback only, with its token, without update checks or news."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from learner_copies import Copied, copy_notebooks
from setup_steps import Place, SetupError

FIRST = "00_start.ipynb"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TOKENS = ("IdentityProvider.token", "ServerApp.token", "NotebookApp.token")
_PASSWORDS = ("PasswordIdentityProvider.hashed_password", "ServerApp.password")
#: Lies in the venv, so that a person's own JupyterLab settings are left as they are and still win.
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # A long line of code is read whole, not scrolled to.
    "@jupyterlab/notebook-extension:tracker": {"codeCellConfig": {"lineNumbers": False, "lineWrap": True}},
}


def launch(place: Place, lab_args: Sequence[str]) -> None:
    """Copy the notebooks and become JupyterLab; does not return."""
    refuse_open_server(lab_args, place.env)
    try:
        for copied in copy_notebooks(place.root / "notebooks", place.work):
            if line := describe(copied):
                print(line)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        step = f"{'free space on that disk' if full else 'allow writing there'}; nothing of yours was changed"
        raise SetupError("work/", f"to write the learner's copies into {place.work}", str(error), step) from error
    arrange(place.venv)
    command = lab_command(place, lab_args)
    print("Opening JupyterLab on work/ (Ctrl-C twice stops it) ...", flush=True)
    os.chdir(place.work)
    os.execve(command[0], command, dict(place.env))


def refuse_open_server(lab_args: Sequence[str], env: Mapping[str, str]) -> None:
    """A server that others can reach runs what anybody sends it, so it keeps its token or has a password.

    Raises SetupError for an address other than loopback without either.
    """
    given = _options(lab_args)
    address = next((given[name] for name in ("ip", "ServerApp.ip") if name in given), "127.0.0.1")
    if address in _LOOPBACK:
        return
    tokens = [given[name] for name in _TOKENS if name in given]
    tokens += [env["JUPYTER_TOKEN"]] if "JUPYTER_TOKEN" in env and not tokens else []
    if "" in tokens and not any(given.get(name) for name in _PASSWORDS):
        raise SetupError(
            "lab",
            f"a token or a password for a server that listens on {address}",
            "a token that is switched off and no password",
            "leave the token on, set JUPYTER_TOKEN, or give a password: see docs/hosting.md",
        )


def _options(words: Sequence[str]) -> dict[str, str]:
    """--name=value and --name value, quotes and leading dashes off; the last of a name wins, as in JupyterLab."""
    found: dict[str, str] = {}
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            found[name] = (value if sign else after if not after.startswith("--") else "").strip("'\"")
    return found


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


def arrange(venv: Path) -> None:
    """JupyterLab's settings for this venv: no news, no pop-ups of updates, lines of code that wrap."""
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
