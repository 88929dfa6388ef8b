"""Where the outcomes of exercises and predictions are noted: one JSON line each, in memory and in a local file."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gatescope.paths import locked, repo_root, to_write_again

#: Everything noted since the kernel started, oldest first.
NOTES: list[dict[str, object]] = []


def journal_path() -> Path:
    """The learner's progress file: ``$GATESCOPE_PROGRESS``, else ``work/.progress.jsonl`` of the checkout."""
    named = os.environ.get("GATESCOPE_PROGRESS")
    return Path(named) if named else repo_root() / "work" / ".progress.jsonl"


def note(kind: str, name: str, **fields: object) -> str:
    """Note an outcome. Returns the empty string, or why the file could not be written and what to do; never fatal.

    A line is one write in append mode under a lock, so two notebooks noting at once do not tear each other's lines.
    """
    entry: dict[str, object] = {"kind": kind, "name": name, **fields}
    NOTES.append(entry)
    line = json.dumps(entry | {"at": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n"
    try:
        path = journal_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, line.encode())
    except OSError as error:
        return f"progress not saved: {error}; {to_write_again(error, path)}, then run this cell again"
    except ValueError as error:
        return f"progress not saved: {error}"
    return ""


def read(path: Path) -> list[dict[str, object]]:
    """The notes of a file, oldest first; none when it does not exist. What is no note is left out."""
    notes = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            notes.append(entry)
    return notes


def _append(path: Path, line: bytes) -> None:
    """All of a line or nothing. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # a file system without locks; a single write is all we have there
            locked(handle, wait=True)
        size = os.lseek(handle, 0, os.SEEK_END)
        if size:  # the end of a line that somebody else left torn would take ours with it
            os.lseek(handle, size - 1, os.SEEK_SET)
            line = line if os.read(handle, 1) == b"\n" else b"\n" + line
        try:
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
