"""What every test shares: shapes checked at run time, one thread policy, and what to do when something is missing."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

# Before torch is imported: over-subscribed cores run several times slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["GATESCOPE_LIVE"] = ""  # a run that a learner left is not for a test to go on with

import pytest
import torch
from jaxtyping import install_import_hook

# Before triton is imported: without a GPU its interpreter runs the kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Every annotated shape of the three packages is checked at each call. The hook must stand before their first import.
sys.path.insert(0, str(Path(__file__).parent))
from browser.chromium import FIX, find_chromium
from shape_checks import leave_kernels_alone

leave_kernels_alone()
install_import_hook(["gatescope", "gatescope_kernels", "gatescope_lessons"], "shape_checks.checked")

ROOT = Path(__file__).resolve().parents[1]
CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _missing(what: str, fix: str) -> NoReturn:
    message = f"{what} is missing; {fix}"
    if CI:
        pytest.fail(f"{message} (with CI=true nothing may be skipped)", pytrace=False)
    pytest.skip(message)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Code under test may set torch's threads; the next file begins with one again."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """The ignored folder for screenshots and logs that a person may want to look at after a run."""
    folder = ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """``require("transformers")``: skip with the fix when packages are missing; with CI=true fail instead."""

    def check(*packages: str) -> None:
        for package in packages:
            if importlib.util.find_spec(package) is None:
                _missing(f"the package {package}", "run `make test`, which installs it")

    return check


@pytest.fixture(scope="session")
def chromium(require: Callable[..., None]) -> str:
    """Path of a Chromium that playwright can drive: the system's, else playwright's own."""
    require("playwright")
    return find_chromium() or _missing("a Chromium", FIX)
