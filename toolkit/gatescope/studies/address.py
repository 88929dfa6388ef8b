"""The address of a point: a digest of what its record depends on, so that equal addresses mean equal records."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gatescope import data
from gatescope.errors import Refusal

_DIGITS = 24


@dataclass(frozen=True, slots=True)
class Versions:
    """Digests of the code and the data that all points of a study share."""

    code: str
    data: str


def address(point: str, config: Mapping[str, Any], versions: Versions) -> str:
    """sha256, shortened, of the function's name, its config as plain values, and the two versions."""
    held = {"point": point, "config": dict(config), "code": versions.code, "data": versions.data}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def code_version(modules: Iterable[str]) -> str:
    """Digest of the syntax of ``modules``; a package stands for every module inside.

    Comments, layout and docstrings do not count. Which modules a point runs is the study's to say, and a test of the
    study holds it to what is executed: following imports would count whole rooms of which a point runs a function.

    Raises Refusal for a module that is not there.
    """
    digest = hashlib.sha256()
    for module in sorted(set(modules)):
        for path in _sources(module):
            digest.update(f"{module} {path.name}\n".encode())
            digest.update(_syntax(path, path.stat().st_mtime_ns).encode())
    return digest.hexdigest()[:_DIGITS]


def data_version(names: Iterable[str]) -> str:
    """Digest of the sha256 of files of data/, as the manifest has them. Raises Refusal for a file without a row."""
    rows = data.rows() if (names := sorted(set(names))) else {}
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise Refusal("study", "files of data/manifest.toml", ", ".join(unknown), "correct the study's key data")
    held = "\n".join(f"{name} {rows[name].sha256}" for name in names)
    return hashlib.sha256(held.encode()).hexdigest()[:_DIGITS]


def _sources(module: str) -> list[Path]:
    package, *inner = module.split(".")
    # find_spec of a submodule would import its parents, torch with them; that of a top-level name imports nothing.
    spec = find_spec(package)
    if spec is not None and spec.origin is not None and not inner and not spec.submodule_search_locations:
        return [Path(spec.origin)]
    if spec is not None and spec.submodule_search_locations:
        stem = Path(spec.submodule_search_locations[0]).joinpath(*inner)
        if stem.with_suffix(".py").is_file():
            return [stem.with_suffix(".py")]
        if stem.is_dir():
            return sorted(stem.rglob("*.py"))
    raise Refusal("study", "modules that exist under the key code", repr(module), "correct the name")


@lru_cache(maxsize=4096)
def _syntax(path: Path, mtime_ns: int) -> str:
    """The syntax tree as text, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


__all__ = ["Versions", "address", "code_version", "data_version"]
