"""Where the outcomes of exercises and predictions are noted: one JSON line each, in memory and in a local file."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from gatescope.paths import repo_root

#: Everything noted since the kernel started, oldest first.
NOTES: list[dict[str, object]] = []


def journal_path() -> Path:
    """The learner's progress file: ``$GATESCOPE_PROGRESS``, else ``work/.progress.jsonl`` of the checkout."""
    named = os.environ.get("GATESCOPE_PROGRESS")
    return Path(named) if named else repo_root() / "work" / ".progress.jsonl"


def note(kind: str, name: str, **fields: object) -> str:
    """Note an outcome. Returns the empty string, or why the file could not be written; that is never fatal.

    A line is one write in append mode, so two notebooks noting at once do not tear each other's lines.
    """
    entry: dict[str, object] = {"kind": kind, "name": name, **fields}
    NOTES.append(entry)
    line = json.dumps(entry | {"at": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n"
    try:
        path = journal_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        return f"progress not saved: {error}"
    return ""


def read(path: Path) -> list[dict[str, object]]:
    """The notes of a file, oldest first; none when it does not exist. A line torn by a full disk is left out."""
    notes = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            notes.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return notes
