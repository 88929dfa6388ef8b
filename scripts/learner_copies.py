"""The learner's own copies of the notebooks in work/. A file the learner changed is never overwritten."""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LEDGER = ".copies.json"


@dataclass(frozen=True)
class Copied:
    """What happened to one notebook: new, refreshed, kept, offered (an update lies beside it), or current."""

    name: str
    outcome: str
    offered_as: str = ""


def copy_notebooks(source: Path, work: Path) -> list[Copied]:
    """Bring ``work`` up to ``source``. The ledger in ``work`` holds the sha256 of every file as it was copied.

    A copy the learner left alone is refreshed when its source changed; beside one the learner changed, the update is
    laid as ``NAME.update.ipynb``, once for each update.
    """
    work.mkdir(parents=True, exist_ok=True)
    ledger = _read_ledger(work)
    results = []
    for path in sorted(p for p in source.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts):
        results.append(_copy_one(path, path.relative_to(source).as_posix(), work, ledger))
        _write_ledger(work, ledger)
    return results


def _copy_one(path: Path, name: str, work: Path, ledger: dict[str, str]) -> Copied:
    target, digest = work / name, _sha256(path)
    present = _sha256(target) if target.exists() else None
    if present is None or present == digest:
        if present is None:
            _place(path, target)
        ledger[name] = digest
        return Copied(name, "new" if present is None else "current")
    if ledger.get(name) == digest:
        return Copied(name, "kept")
    if ledger.get(name) == present:
        _place(path, target)
        ledger[name] = digest
        return Copied(name, "refreshed")
    offer_key = f"{name}#update"
    if ledger.get(offer_key) == digest:
        return Copied(name, "kept")
    offer = _free_offer(target, ledger.get(offer_key))
    _place(path, offer)
    ledger[offer_key] = digest
    return Copied(name, "offered", offer.relative_to(work).as_posix())


def _free_offer(target: Path, last_offered: str | None) -> Path:
    # An earlier offer the learner went on to work in is theirs too.
    number = 1
    while True:
        offer = target.with_suffix(".update.ipynb" if number == 1 else f".update{number}.ipynb")
        if not offer.exists() or _sha256(offer) == last_offered:
            return offer
        number += 1


def _place(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, path.read_bytes())


def _replace(target: Path, content: bytes) -> None:
    """All of it or nothing, whoever else does the same; what a full disk left of it is removed."""
    temporary = target.with_name(f".{target.name.lstrip('.')}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_ledger(work: Path) -> dict[str, str]:
    # Without a readable ledger every differing copy counts as the learner's own: the safe side.
    try:
        return dict(json.loads((work / LEDGER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_ledger(work: Path, ledger: dict[str, str]) -> None:
    _replace(work / LEDGER, json.dumps(ledger, indent=1, sort_keys=True).encode())
