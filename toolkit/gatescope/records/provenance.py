"""Where a record comes from: code, library versions, data, seed."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gatescope import __version__


def provenance(
    *,
    dtype: str | None = None,
    seed: int | None = None,
    n_samples: int | None = None,
    n_tokens: int | None = None,
    torch: str | None = None,
    created: bool = True,
) -> dict[str, Any]:
    """Attributes of a record: gatescope and torch versions, git commit and whether the tree had changes, and what is
    given here; what is None is left out.

    torch    version as a string; looked up among the installed packages when None
    created  False leaves the time (UTC) out, so that the same measurement makes the same file
    """
    commit, dirty = _commit()
    given = {"dtype": dtype, "seed": seed, "n_samples": n_samples, "n_tokens": n_tokens}
    about = {
        "gatescope": __version__,
        "commit": commit,
        "dirty": dirty,
        "torch": torch or _installed("torch"),
        **{name: value for name, value in given.items() if value is not None},
    }
    if created:
        about["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    return about


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@lru_cache(maxsize=1)
def _commit() -> tuple[str, bool]:
    """The commit this package runs from, and whether tracked files differ from it; ("unknown", False) outside git."""
    here = Path(__file__).resolve().parent
    try:
        # An installed copy inside somebody else's repository must not borrow that repository's commit.
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        return _git(here, "rev-parse", "HEAD"), bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
