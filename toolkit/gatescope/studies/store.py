"""Where the points of a study are kept: one folder a point, renamed into place, whoever else writes beside us."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatescope.errors import DataError
from gatescope.paths import atomic_write, cache_dir, locked

if TYPE_CHECKING:
    import xarray as xr

    from gatescope.studies.expand import Point
    from gatescope.studies.spec import Study

_ABOUT, _RECORD = "point.json", "record.zarr"
_DRAFT = ".draft-"
# A draft is written in milliseconds; one this old was left by a writer that was killed.
_STALE_S = 3600.0


class Store:
    """The folder of a study.

        points/<address>/point.json, record.zarr    a finished point: config, seconds, provenance; its record
        failed/<address>.json                       a point that crashed, with its traceback
        claims/<address>                            locked by the run that measures it

    A point is written beside its place and enters it in one rename, so a reader never sees half of one and a writer
    that is killed at any moment leaves nothing that counts. Of two writers of one point the first stands. A claim is a
    lock of the operating system, which lets go of it when its holder dies.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def of(cls, study: Study) -> Store:
        """The store of a study in this checkout's cache."""
        return cls(cache_dir() / "studies" / study.name)

    def finished(self) -> set[str]:
        """Addresses of the points whose records are here."""
        return _names(self.folder / "points")

    def put(self, point: Point, record: xr.Dataset, about: Mapping[str, Any]) -> bool:
        """Keep a finished point. False when another writer had kept it first, whose record then stands.

        Raises DataError when it cannot be written, Refusal for a record that cannot be kept as zarr.
        """
        target = self._point(point.address)
        draft = target.with_name(f"{_DRAFT}{point.address}-{secrets.token_hex(4)}")
        try:
            rows = _write(draft / _RECORD, record)
            _write_json(draft / _ABOUT, {"config": dict(point.config), "rows": rows, **about})
            try:
                draft.rename(target)
            except OSError as error:
                if not target.is_dir():
                    step = f"free space on the disk of {self.folder}, or allow writing there"
                    raise DataError("study", f"to write {target}", repr(error.strerror), step) from error
                return False
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):
            self._failure(point.address).unlink(missing_ok=True)
        return True

    def about(self, address: str) -> dict[str, Any]:
        """What was written beside a record: config, seconds, host, provenance. Raises DataError for a damaged file."""
        return _read_json(self._point(address) / _ABOUT)

    def seconds(self, addresses: Iterable[str]) -> list[float]:
        """How long each of these points took; a damaged one is left out."""
        found = []
        for address in addresses:
            with suppress(DataError, KeyError):
                found.append(float(self.about(address)["seconds"]))
        return found

    def record(self, address: str) -> xr.Dataset:
        """The record of a finished point, its checksum held. Raises DataError for a damaged one."""
        from gatescope.records import Appended

        record = Appended(self._point(address) / _RECORD).load()
        return record if self.about(address)["rows"] == "steps" else record.isel(step=0, drop=True)

    def fail(self, point: Point, error: str, about: Mapping[str, Any]) -> None:
        """Keep why a point crashed. Raises DataError when that cannot be written."""
        _write_json(self._failure(point.address), {"config": dict(point.config), "error": error, **about})

    def failures(self) -> dict[str, dict[str, Any]]:
        """Address -> config and traceback of every point that crashed and was not measured since."""
        found = {name.removesuffix(".json") for name in _names(self.folder / "failed")} - self.finished()
        return {address: _read_json(self._failure(address)) for address in sorted(found)}

    @contextmanager
    def claim(self, address: str) -> Iterator[bool]:
        """Whether the point is ours to measure while the block lasts; False when another run is at it.

        Raises DataError when the store cannot be written. Where the operating system has no such locks every point is
        ours: two runs may then measure one twice, and still one record stands.
        """
        path = self.folder / "claims" / address
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            step = f"allow writing to {self.folder}, or choose another --store"
            raise DataError("study", f"to write {path}", repr(error.strerror), step) from error
        with file:
            # The file stays: taking it away would let two runs hold locks on two files of one name.
            yield locked(file)

    def claimed(self) -> set[str]:
        """Addresses that a run is measuring now."""
        found = set()
        for address in _names(self.folder / "claims"):
            with suppress(OSError), (self.folder / "claims" / address).open("r+") as file:
                if not locked(file):
                    found.add(address)
        return found

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        with suppress(OSError):
            for draft in (self.folder / "points").glob(f"{_DRAFT}*"):
                if time.time() - draft.stat().st_mtime > _STALE_S:
                    shutil.rmtree(draft, ignore_errors=True)

    def _point(self, address: str) -> Path:
        return self.folder / "points" / address

    def _failure(self, address: str) -> Path:
        return self.folder / "failed" / f"{address}.json"


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):  # writing there will say what is wrong
        return set()
    except OSError as error:
        raise DataError("study", f"to read {folder}", repr(error.strerror), "allow reading it") from error


def _write(path: Path, record: xr.Dataset) -> str:
    """Rows of a record along step; any other record is a single row."""
    from gatescope.records import Appended

    rows = Appended(path)
    if "step" not in record.dims:
        rows.append(record, 0)
        return "single"
    for place, step in enumerate(record.step.values):
        rows.append(record.isel(step=place, drop=True), int(step))
    return "steps"


def _write_json(path: Path, held: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        step = f"delete {path.parent} and run the study again"
        raise DataError("study", f"a readable {path}", f"{type(error).__name__}: {error}", step) from error


__all__ = ["Store"]
