"""A record on disk that grows along ``step`` while a training run goes on, and survives kill -9 at any moment."""

from __future__ import annotations

import json
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from gatescope.errors import DataError, Refusal
from gatescope.records.combine import common_attrs, label_attrs
from gatescope.records.files import decoded, encoded
from gatescope.records.schema import DEFINITION, check

# The group's own metadata: zarr replaces nothing else when attributes change.
_INDEX: Final = "zarr.json"
_NAME: Final = "gatescope"
_FORMAT: Final = 1
# Rows share a chunk up to this size, so that long runs do not leave a file a row and append stays cheap.
_CHUNK_BYTES: Final = 1 << 16
_MOST_ROWS: Final = 64


class Appended:
    """The record in folder ``path``: a zarr 3 group, one array a variable, whose attributes say which rows are valid.

        rows = records.Appended("run.zarr")
        rows.append(scope.record(), step=50)      # on disk when this returns
        record = rows.load()                      # or records.load("run.zarr")

    A row is first written to the arrays, each file whole or not at all, and then enters the list of valid rows in one
    rename. Readers believe that list alone, so a process killed at any moment loses at most the row in flight; what it
    left behind is overwritten by the next row. Every row has a checksum: should a power cut take rows that the system
    had not yet put on the disk, `load` says so. `xarray.open_zarr` opens the folder too, and may see a torn last row.

    All rows have the variables, labels and types of the first: a record whose tokens or layers differ is refused, never
    padded. Attributes that change from row to row are kept with each; `load` gives what records.concat gives.

    Raises DataError for a folder that holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, Any]] = []
        self._metadata: dict[str, Any] = {}
        self._state: tuple[int, int, int] | None = None
        self._template: _Template | None = None
        if self.path.exists():
            self._read_index()

    @property
    def steps(self) -> list[int]:
        """The steps on disk, in order."""
        return [row["step"] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, record: xr.Dataset, step: int) -> None:
        """Add ``record`` as the row of ``step``.

        Raises Refusal for a step that is not after the last one and for a record that differs in more than its values,
        DataError when it cannot be written (a full disk) or another process has written here; the rows before are
        intact then, and the same call may be tried again.
        """
        check(record, "append")
        last = self._rows[-1]["step"] if self._rows else None
        if last is not None and step <= last:
            raise Refusal("append", f"a step after {last}", str(step), f"drop the later rows: drop_after({step - 1})")
        self._refuse_other_writer()
        with self._writing(f"the row of step {step}"):
            if self._state is None:
                self._create(record)
            template = self._opened()
            template.refuse_other(record)
            values = {name: np.asarray(record.variables[name].values) for name in template.arrays if name != "step"}
            values["step"] = np.array(step, dtype="int64")
            for name, array in template.arrays.items():
                array.write(len(self._rows), values[name])
            row = {"step": int(step), "crc": _checksum(values), "differs": template.differences(record)}
            self._write_index([*self._rows, row])

    def drop_after(self, step: int) -> int:
        """Forget the rows after ``step``, at once and for good. Returns how many there were."""
        kept = [row for row in self._rows if row["step"] <= step]
        dropped = len(self._rows) - len(kept)
        if dropped:
            self._refuse_other_writer()
            with self._writing(f"that rows end at step {step}"):
                self._write_index(kept)
            self._template = None
        return dropped

    def load(self) -> xr.Dataset:
        """All valid rows, in memory, along dim ``step``.

        Raises DataError for no rows and for rows that do not hold what was written.
        """
        if not self._rows:
            raise DataError("load", f"rows in {self.path}", "none", "record a step first")
        group = self._group()
        try:
            arrays, names = dict(group.arrays()), self._attrs["variables"]
            values = {name: _plain(array) for name, array in arrays.items()}
            data = {name: values[name][: len(self)] for name in [*names, "step"]}
            for place, row in enumerate(self._rows):
                if _checksum({name: np.asarray(found[place]) for name, found in data.items()}) != row["crc"]:
                    raise ValueError(f"the row of step {row['step']} is not what was written")
        except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise DataError(
                "load",
                "an intact record",
                f"{self.path} ({type(error).__name__}: {error})",
                "call drop_after with the last step before the damage, or delete the folder and record again",
            ) from error
        about = {name: decoded(dict(array.attrs)) for name, array in arrays.items()}
        dims = {name: array.metadata.dimension_names for name, array in arrays.items()}
        record = xr.Dataset(
            {name: (dims[name], data[name]) for name in names},
            coords={"step": ("step", data["step"])}
            | {name: (dims[name], found, about[name]) for name, found in values.items() if name not in data},
        )
        for name in names:
            record[name].attrs = common_attrs([_applied(about[name], row["differs"].get(name)) for row in self._rows])
        own = decoded(dict(self._attrs["record"]))
        record = label_attrs(record, "step", [_applied(own, row["differs"].get("")) for row in self._rows])
        try:
            return check(record, "load")
        except Refusal as error:
            raise DataError("load", error.wanted, f"{error.got} in {self.path}", error.next_step) from error

    def _group(self) -> Any:
        import zarr

        try:
            return zarr.open_group(self.path, mode="r", zarr_format=3)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                "load", "a zarr record", f"{self.path} ({error})", "delete the folder and record again"
            ) from error

    def _opened(self) -> _Template:
        if self._template is None:
            self._template = _Template.of(self._group(), self._attrs, self.path, len(self))
        return self._template

    def _create(self, record: xr.Dataset) -> None:
        import zarr

        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            _layout(zarr.create_group(draft, zarr_format=3), record)
            draft.rename(self.path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._read_index()

    def _read_index(self) -> None:
        path = self.path / _INDEX
        try:
            self._metadata = json.loads(path.read_text(encoding="utf-8"))
            version, self._rows, self._state = self._attrs["format"], self._attrs["rows"], _state(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "load", "the folder of a record that grows", f"{self.path} ({error!r})", "choose another folder"
            ) from error
        if version != _FORMAT:
            raise DataError("load", f"rows of format {_FORMAT}", f"format {version} in {path}", "update gatescope")

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                "append",
                f"to write {what} to {self.path}",
                repr(error.strerror or str(error)),
                f"free space there or allow writing, then try again; the {len(self)} rows on disk are intact",
            ) from error

    @property
    def _attrs(self) -> dict[str, Any]:
        return self._metadata["attributes"][_NAME]

    def _write_index(self, rows: list[dict[str, Any]]) -> None:
        path = self.path / _INDEX
        metadata = self._metadata | {"attributes": {_NAME: self._attrs | {"rows": rows}}}
        # No flush to the disk, which takes longer than all else: a killed process loses nothing without it.
        _replace(path, json.dumps(metadata, separators=(",", ":")).encode())
        self._metadata = metadata
        self._rows, self._state = rows, _state(path)

    def _refuse_other_writer(self) -> None:
        path = self.path / _INDEX
        if (_state(path) if path.exists() else None) != self._state:
            raise DataError(
                "append",
                f"to be the only one who writes {self.path}",
                "rows written by another process since it was opened",
                "give each run a folder of its own, or open it again to go on",
            )


@dataclass(slots=True)
class _Array:
    """One zarr array that grows along its first dimension, written as files by zarr's specification.

    zarr's own calls take milliseconds an array, and a record has some fifty.
    """

    folder: Path
    metadata: dict[str, Any]
    tail: np.ndarray
    fill: Any
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.tail.shape[1:]

    def write(self, row: int, value: np.ndarray) -> None:
        """Put ``value`` into ``row``; each file is replaced whole."""
        chunk, place = divmod(row, len(self.tail))
        if place == 0:
            self.tail[...] = self.fill
        self.tail[place] = value
        target = self.folder.joinpath("c", str(chunk), *("0" for _ in self.shape))
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, self.tail.astype(self.tail.dtype.newbyteorder("<"), copy=False).tobytes())
        self.metadata["shape"] = [row + 1, *self.shape]
        _replace(self.folder / "zarr.json", json.dumps(self.metadata).encode())


@dataclass(slots=True)
class _Template:
    """What all rows share: arrays, labels, and the attributes of the first."""

    arrays: dict[str, _Array]
    dims: dict[str, tuple[str, ...]]
    labels: dict[str, np.ndarray]
    about: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, group: Any, attrs: dict[str, Any], path: Path, rows: int) -> _Template:
        names = [*attrs["variables"], "step"]
        found, arrays = dict(group.arrays()), {}
        for name in names:
            array = found[name]
            size = array.chunks[0]
            tail = np.full(array.chunks, array.fill_value, dtype=array.dtype)
            begun = rows % size
            tail[:begun] = array[rows - begun : rows]
            metadata = json.loads((path / name / "zarr.json").read_text(encoding="utf-8"))
            arrays[name] = _Array(path / name, metadata, tail, array.fill_value)
        return cls(
            arrays,
            {name: tuple(found[name].metadata.dimension_names[1:]) for name in names},
            {name: _plain(array) for name, array in found.items() if name not in arrays},
            {"": dict(attrs["record"])} | {name: dict(found[name].attrs) for name in attrs["variables"]},
        )

    def refuse_other(self, record: xr.Dataset) -> None:
        """Raises Refusal naming the first thing in which ``record`` is not as the rows before."""
        names = set(self.arrays) - {"step"}
        if set(map(str, record.data_vars)) != names:
            other = sorted(names ^ set(map(str, record.data_vars)))
            _refuse("the same variables in every row", f"{other} in some", "measure with the same probes")
        if set(map(str, record.coords)) != set(self.labels):
            _refuse(f"the labels {sorted(self.labels)}", str(sorted(map(str, record.coords))), "measure the same model")
        for name, labels in self.labels.items():
            values = record.coords[name].values
            if values.shape != labels.shape or not bool(np.all(values == labels)):
                _refuse(
                    f"the same labels along {name} in every row ({labels.size} in the first)",
                    f"{values.size} or other ones",
                    "measure a fixed batch, or batches of one length, or leave out what runs along it",
                )
        for name in names:
            array, variable = self.arrays[name], record.variables[name]
            if variable.dims != self.dims[name] or variable.dtype != array.tail.dtype:
                _refuse(
                    f"{name} along {self.dims[name]} as {array.tail.dtype}",
                    f"along {variable.dims} as {variable.dtype}",
                    "measure with the same probes",
                )
            for attr in DEFINITION:
                if variable.attrs[attr] != decoded(self.about[name])[attr]:
                    _refuse(
                        f"one {attr} for {name!r}",
                        f"{decoded(self.about[name])[attr]!r} and {variable.attrs[attr]!r}",
                        "measure again with one of them",
                    )

    def differences(self, record: xr.Dataset) -> dict[str, dict[str, list[Any]]]:
        """Attributes that are not as in the first row: [value], or [] for one that is gone."""
        own = {"": encoded(record.attrs, "the record")}
        own |= {name: encoded(record.variables[name].attrs, repr(name)) for name in self.arrays if name != "step"}
        found = {}
        for name, attrs in own.items():
            first = self.about[name]
            changed = {attr: [value] for attr, value in attrs.items() if attr not in first or first[attr] != value}
            changed |= {attr: [] for attr in first.keys() - attrs.keys()}
            if changed:
                found[name] = changed
        return found


def _refuse(wanted: str, got: str, next_step: str) -> None:
    raise Refusal("append", wanted, got, next_step)


def _layout(group: Any, record: xr.Dataset) -> None:
    """Empty arrays for the variables of ``record``, full ones for its labels."""
    if "step" in record.variables:
        _refuse("a record of one step", "one with a step", "append what Scope.record gives")
    group.attrs[_NAME] = {
        "format": _FORMAT,
        "variables": [str(name) for name in record.data_vars],
        "record": encoded(record.attrs, "the record"),
        "rows": [],
    }
    rows = {str(name): variable.variable for name, variable in record.data_vars.items()}
    for name, variable in {**rows, "step": xr.Variable((), np.int64(0))}.items():
        if variable.dtype.kind not in "biuf":
            _refuse("numbers and booleans", f"{variable.dtype} in {name!r}", "keep strings as attributes or labels")
        chunk = min(_MOST_ROWS, max(1, _CHUNK_BYTES // max(1, variable.nbytes)))
        group.create_array(
            name,
            shape=(0, *variable.shape),
            chunks=(chunk, *(max(1, size) for size in variable.shape)),
            dtype=variable.dtype,
            fill_value=np.nan if variable.dtype.kind == "f" else 0,
            compressors=None,
            filters=None,
            dimension_names=("step", *map(str, variable.dims)),
            attributes=encoded(variable.attrs, repr(name)),
        )
    for coordinate, label in record.coords.items():
        text = label.dtype.kind in "OUT"
        array = group.create_array(
            str(coordinate),
            shape=label.shape,
            dtype=str if text else label.dtype,
            dimension_names=tuple(map(str, label.dims)),
            attributes=encoded(label.attrs, repr(coordinate)),
        )
        array[...] = label.values.astype(str).astype(object) if text else label.values


def _plain(array: Any) -> np.ndarray:
    values = np.asarray(array[...])
    return values if values.dtype.kind in "biuf" else np.array(values.tolist(), dtype=str)


def _applied(attrs: Mapping[str, Any], changes: Mapping[str, list[Any]] | None) -> dict[str, Any]:
    """``attrs`` with a row's changes; both as they are in memory and on disk."""
    found = dict(attrs)
    for attr, value in (changes or {}).items():
        if value:
            found |= decoded({attr: value[0]})
        else:
            found.pop(attr, None)
    return found


def _checksum(values: Mapping[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(values):
        total = zlib.crc32(np.ascontiguousarray(values[name]).tobytes(), zlib.crc32(name.encode(), total))
    return total


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(content)
    temporary.replace(path)


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


__all__ = ["Appended"]
