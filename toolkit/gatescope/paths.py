"""Where the project keeps things, and the one way it writes a file: all of it or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from gatescope.errors import DataError, Refusal

_FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))
_WRITE_ERRNOS = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENOENT", "ENOTDIR", "EEXIST")
    if hasattr(errno, name)
)
# safetensors (Rust) and HDF5 report the operating system's error number only inside their message.
_ERRNO_IN_MESSAGE = re.compile(r"(?:os error|errno =) (\d+)")


def checkout() -> Path | None:
    """The checkout this package runs from: ``$GATESCOPE_ROOT``, else found from the package's own location.

    None where the packages were installed alone, without ``data/``. Raises Refusal when the folder that
    ``$GATESCOPE_ROOT`` names holds no ``data/``.
    """
    named = os.environ.get("GATESCOPE_ROOT")
    root = Path(named).expanduser().resolve() if named else Path(__file__).resolve().parents[2]
    if (root / "data").is_dir():
        return root
    if not named:
        return None
    raise Refusal(
        "checkout",
        "a checkout of this project with a data/ folder",
        f"{root} ($GATESCOPE_ROOT) without one",
        "set GATESCOPE_ROOT to your clone",
    )


def repo_root() -> Path:
    """The `checkout`, for what needs one. Raises Refusal when there is none."""
    root = checkout()
    if root is None:
        raise Refusal(
            "checkout",
            "a checkout of this project with its notebooks/ and data/",
            f"the packages installed alone, in {Path(__file__).resolve().parents[1]}",
            "clone the repository or unpack the course, run `make lab` there and use its .venv, "
            "or set GATESCOPE_ROOT to it",
        )
    return root


def data_dir() -> Path:
    """``data/`` of the checkout: small files made by this project, each with its row in the manifest."""
    return repo_root() / "data"


def cache_dir() -> Path:
    """Where files that can be made again are kept: ``$GATESCOPE_CACHE``, else ``.cache`` in the checkout, else
    ``gatescope`` in the user's cache (``$XDG_CACHE_HOME``, else ``~/.cache``).

    The folder need not exist yet; `atomic_write` makes it.
    """
    if named := os.environ.get("GATESCOPE_CACHE"):
        return Path(named).expanduser().resolve()
    if root := checkout():
        return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gatescope"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write ``path`` through a temporary file beside it, so that a reader sees the old file or the whole new one.

        with atomic_write(target) as temporary:
            save_file(tensors, temporary)

    Missing folders are made. When the block raises, the temporary file is removed and ``path`` is as it was; a
    refused permission or a full disk becomes a DataError. A killed process may leave a hidden ``.<name>.*.tmp*`` file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)  # a folder that refuses us says so before the work is done
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors renames a private file of its own into place
        _flush_to_disk(temporary)
        temporary.replace(path)
    except Exception as error:
        code = _errno(error)
        if code is None or code not in _WRITE_ERRNOS or _concerns_another_file(error, path, temporary):
            raise
        raise DataError(
            "atomic_write",
            f"to write {path}",
            f"{os.strerror(code)!r}",
            f"free space on the disk of {path.parent}, then try again"
            if code in _FULL
            else f"allow writing to {path.parent}, or point GATESCOPE_CACHE or the output path elsewhere",
        ) from error
    finally:
        with suppress(OSError):  # the error that matters is already on its way
            temporary.unlink(missing_ok=True)


def to_write_again(error: OSError, path: Path) -> str:
    """The next step after ``path`` could not be written, for a sentence that ends there."""
    if error.errno in _FULL:
        return f"free space on the disk of {path.parent}"
    return f"allow writing to {path.parent}"


def locked(file: IO[Any] | int, *, wait: bool = False) -> bool:
    """Lock an open file for as long as it is open; False when another process, or another opening, has it.

    With ``wait`` it is ours when it comes free. Where the operating system has no such locks it always is.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex; computed once per process for each size and modification time of the file."""
    path = Path(path).resolve()
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _ERRNO_IN_MESSAGE.search(str(error))
    return int(found.group(1)) if found else None


def _concerns_another_file(error: BaseException, path: Path, temporary: Path) -> bool:
    named = getattr(error, "filename", None)
    ours = {path, temporary, *path.parents}
    return isinstance(named, str | Path) and Path(named) not in ours
