"""Which build of torch this machine gets: CUDA where there is an NVIDIA driver, else the small CPU build."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: PyTorch's public index of CPU builds; the package index itself has only CUDA builds for Linux.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Plan:
    """What pip is told about torch, what the person is told, and whether a CUDA build would be a mistake."""

    options: tuple[str, ...]
    says: tuple[str, ...]
    refuse_cuda: bool


def plan(
    env: Mapping[str, str],
    *,
    system: str | None = None,
    driver: bool | None = None,
    reachable: Callable[[str], bool] | None = None,
) -> Plan:
    """The build for this machine. ``TORCH_INDEX`` names another index of CPU builds; empty: pip's own settings only.

    ``GATESCOPE_ALLOW_CUDA=1`` takes the CUDA build even without a driver.
    """
    if (system or platform.system()) != "Linux":
        return Plan((), ("about 100 MB to download",), refuse_cuda=False)
    if has_nvidia_driver() if driver is None else driver:
        says = "CUDA build, because this machine has an NVIDIA driver: about 3 GB to download"
        return Plan((), (says,), refuse_cuda=False)
    refuse_cuda = env.get("GATESCOPE_ALLOW_CUDA", "") in {"", "0"}
    index = env.get("TORCH_INDEX", CPU_INDEX).strip()
    says = "CPU build, because this machine has no NVIDIA driver: about 190 MB to download"
    if not index:
        return Plan((), (says, "from where pip is set up to look (TORCH_INDEX is empty)"), refuse_cuda)
    if not (reachable or is_reachable)(index):
        return Plan((), (says, f"from where pip is set up to look ({index} cannot be reached)"), refuse_cuda)
    return Plan(("--extra-index-url", index), (says, f"from {index}"), refuse_cuda)


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA driver is loaded (an installed ``nvidia-smi`` alone does not say so)."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    if not (tool := shutil.which("nvidia-smi")):
        return False
    try:
        return subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def is_reachable(index: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether ``index`` answers for torch within ``seconds``; pip itself would try for minutes."""
    parsed = urllib.parse.urlsplit(index)
    if parsed.scheme in {"", "file"}:
        return Path(urllib.request.url2pathname(parsed.path)).exists()
    answered: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=seconds) as answer:
                answered.append(answer.status < 400)
        except (OSError, ValueError):
            answered.append(False)

    # The timeout of urlopen does not cover looking up the name, so the wait is bounded here.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds + 1)
    return bool(answered and answered[0])


@contextmanager
def report_file() -> Iterator[Path]:
    """A path for pip's ``--report``, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="gatescope-") as folder:
        yield Path(folder) / "report.json"


def cuda_packages(report: Mapping[str, Any]) -> list[str]:
    """The CUDA libraries that pip would install, from its ``--report``; empty for a CPU build."""
    names = (item["metadata"]["name"].lower() for item in report.get("install", []))
    return sorted(name for name in names if name.startswith(("nvidia-", "nvidia_", "cuda-", "cuda_")))
