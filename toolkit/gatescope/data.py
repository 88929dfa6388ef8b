"""The small files this project ships in ``data/``, each checked against its row in ``data/manifest.toml``.

    weights = data.path("checkpoints/l02/softmax-s0.safetensors")     # verified, or a DataError

A row says where the file came from: sha256, size, licence, the command of this repository that makes it, what it is.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from gatescope.errors import DataError, Refusal
from gatescope.paths import atomic_write, data_dir, file_sha256

MANIFEST = "manifest.toml"
#: What may lie in data/: formats that cannot run code when they are read.
ALLOWED_SUFFIXES = (".json", ".md", ".nc", ".safetensors", ".toml", ".txt")

_HEADER = "# Every file of this folder. Written by gatescope.data.register; do not edit by hand.\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One file of data/.

    path         relative to data/, with forward slashes
    sha256       of the bytes, in hex
    bytes        size
    licence      SPDX identifier
    made_by      the command of this repository that makes it
    description  what it is, one line
    """

    path: str
    sha256: str
    bytes: int
    licence: str
    made_by: str
    description: str


def rows() -> dict[str, Row]:
    """The manifest: path -> Row. Raises DataError when it is missing or cannot be read."""
    manifest = data_dir() / MANIFEST
    try:
        tables = tomllib.loads(manifest.read_text(encoding="utf-8")).get("file", [])
        found = [Row(**table) for table in tables]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise DataError(
            "data.rows",
            f"a readable manifest with [[file]] rows of {', '.join(field.name for field in fields(Row))}",
            f"{type(error).__name__}: {error}",
            f"restore it: git checkout -- data/{MANIFEST}",
        ) from error
    return {row.path: row for row in found}


def path(name: str) -> Path:
    """The file ``data/<name>``, after its bytes were found to be those of the manifest.

    The digest is computed once per process and modification time.
    Raises DataError for a name without a row, a missing file, and a wrong digest.
    """
    row = rows().get(name)
    if row is None:
        raise DataError("data.path", "a file of data/manifest.toml", repr(name), f"choose one of {sorted(rows())}")
    file = data_dir() / name
    again = f"restore it with git checkout -- data/{name}, or make it again: {row.made_by}"
    if not file.is_file():
        raise DataError("data.path", f"data/{name} with sha256 {row.sha256}", "no such file", again)
    try:
        got = file_sha256(file)
    except OSError as error:
        raise DataError("data.path", f"to read data/{name}", f"{error.strerror!r}", "allow reading it") from error
    if got != row.sha256:
        size = file.stat().st_size
        raise DataError(
            "data.path", f"data/{name} with sha256 {row.sha256} ({row.bytes} bytes)", f"{got} ({size} bytes)", again
        )
    return file


def register(path: str | Path, *, licence: str, made_by: str, description: str) -> Row:
    """Give a file of data/ its row, or a new one in place of the old; rows stay sorted by path.

    ``path`` is absolute or relative to data/. Raises Refusal for a file outside data/, a suffix that is not allowed or
    an empty field, DataError for a missing file or manifest that cannot be written.
    """
    file = data_dir() / path
    name = _name(file)
    if file.suffix not in ALLOWED_SUFFIXES:
        raise Refusal("data.register", f"a file of {ALLOWED_SUFFIXES}", name, "save it in one of these formats")
    for field, value in (("licence", licence), ("made_by", made_by), ("description", description)):
        if not value.strip() or not value.isprintable():
            raise Refusal("data.register", f"one printable line as {field}", repr(value), "say it in one line")
    if not file.is_file():
        raise DataError("data.register", f"the file {file}", "no such file", "write it first")
    row = Row(name, file_sha256(file), file.stat().st_size, licence, made_by, description)
    manifest = data_dir() / MANIFEST
    known = rows() if manifest.exists() else {}
    with atomic_write(manifest) as temporary:
        temporary.write_text(_toml({**known, name: row}), encoding="utf-8", newline="\n")
    return row


def audit() -> list[str]:
    """Everything wrong with data/, one sentence each; empty when every file has its row and every row its file."""
    folder = data_dir()
    known = rows()
    problems = []
    if (folder / MANIFEST).read_text(encoding="utf-8") != _toml(known):
        problems.append(f"{MANIFEST}: not as data.register writes it (sorted, one row a file)")
    files = [file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink()]
    present = {_name(file): file for file in files if file.name != ".DS_Store"}
    del present[MANIFEST]
    for name, file in sorted(present.items()):
        if file.is_symlink():
            problems.append(f"{name}: a link; data/ holds plain files")
        elif file.suffix not in ALLOWED_SUFFIXES or file.name.startswith("."):
            problems.append(f"{name}: only visible files with suffix {', '.join(ALLOWED_SUFFIXES)} may lie in data/")
        elif name not in known:
            problems.append(f"{name}: no row in {MANIFEST}; data.register writes one")
        elif (got := file_sha256(file)) != known[name].sha256 or file.stat().st_size != known[name].bytes:
            problems.append(f"{name}: sha256 {got}, the manifest says {known[name].sha256}")
    problems += [
        f"{name}: a row without a file; make it: {known[name].made_by}"
        for name in sorted(known.keys() - present.keys())
    ]
    return problems


def _name(file: Path) -> str:
    folder = data_dir()
    absolute = file.parent.resolve() / file.name
    if not absolute.is_relative_to(folder):
        raise Refusal("data.register", f"a file inside {folder}", f"{file}", "write it there")
    return absolute.relative_to(folder).as_posix()


def _toml(known: dict[str, Row]) -> str:
    def literal(value: str | int) -> str:
        return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)

    tables = [
        "\n[[file]]\n" + "".join(f"{field.name} = {literal(getattr(row, field.name))}\n" for field in fields(Row))
        for _, row in sorted(known.items())
    ]
    return _HEADER + "".join(tables)
