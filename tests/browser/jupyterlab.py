"""A JupyterLab of its own: loopback, a token, private folders, a free port, and nothing left when it ends."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lab_launch import OVERRIDES

START_SECONDS = 90
#: As `make lab` has it, and every cell stands in the page, so that a test may ask for one that is out of view.
_TRACKER = "@jupyterlab/notebook-extension:tracker"
_SETTINGS = OVERRIDES | {_TRACKER: OVERRIDES[_TRACKER] | {"windowingMode": "none"}}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: the folder it serves, the one with all that it keeps for itself, and its process."""

    url: str
    token: str
    root: Path
    home: Path
    pid: int

    def address(self, notebook: str) -> str:
        """Where ``notebook`` (relative to the root) opens in a fresh workspace."""
        return f"{self.url}/lab/tree/{notebook}?token={self.token}&reset"


@contextmanager
def running(root: Path, home: Path) -> Iterator[Lab]:
    """JupyterLab serving ``root``, with everything it keeps for itself under ``home``. Fails with its log."""
    port, token = _free_port(), secrets.token_hex(16)
    log = home / "jupyterlab.log"
    _write_settings(home)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"),
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={token}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
    ]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=_environment(home), cwd=home, stdout=output, stderr=subprocess.STDOUT)
    try:
        lab = Lab(f"http://127.0.0.1:{port}", token, root, home, process.pid)
        _wait(lab, process, log)
        yield lab
    finally:
        _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _write_settings(home: Path) -> None:
    for name, values in _SETTINGS.items():
        plugin, _, schema = name.partition(":")
        path = home / "settings" / plugin / f"{schema}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


def _environment(home: Path) -> dict[str, str]:
    # The kernels inherit this: an exported MPLBACKEND would leave figures out, an edition would make them headless.
    kept = {key: value for key, value in os.environ.items() if key not in {"MPLBACKEND", "GATESCOPE_EDITION"}}
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "GATESCOPE_PROGRESS": "progress.jsonl",
        "GATESCOPE_LIVE": "live",
    }
    return kept | {"JUPYTER_PREFER_ENV_PATH": "1"} | {key: str(home / name) for key, name in folders.items()}


def _wait(lab: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{lab.url}/api/status", headers={"Authorization": f"token {lab.token}"})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.2)
    ended = f"ended with status {process.returncode}" if process.returncode is not None else "did not answer"
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
    raise AssertionError(f"JupyterLab {ended} within {START_SECONDS} s\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    for member in family:
        family = [*member.children(recursive=True), member]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
