"""Records as netCDF files: written whole or not at all, checked when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from gatescope.errors import DataError, Refusal
from gatescope.paths import atomic_write
from gatescope.records.schema import check

_ENGINE: Final = "h5netcdf"
# netCDF attributes are strings and numbers; anything else is kept as JSON behind this mark.
_JSON = "json:"


def save(record: xr.Dataset, path: str | Path) -> Path:
    """Write ``record`` to ``path`` (netCDF 4) and return it. The same record gives the same bytes.

    Raises Refusal for a dataset that is no record or an attribute that JSON cannot carry, DataError when the file
    cannot be written.
    """
    path = Path(path)
    check(record, "save")
    ordered = {name: record.variables[name] for name in sorted(record.variables, key=str)}
    plain = xr.Dataset({name: variable.copy(deep=False) for name, variable in ordered.items()})
    plain = plain.set_coords([name for name in ordered if name in record.coords])
    plain.attrs = encoded(record.attrs, "the record")
    for name, variable in plain.variables.items():
        variable.attrs = encoded(variable.attrs, repr(name))
        variable.encoding = {}
    with atomic_write(path) as temporary:
        # Through memory: HDF5 with a file of its own takes the process down when the disk is full.
        temporary.write_bytes(plain.to_netcdf(engine=_ENGINE))
    return path


def load(path: str | Path) -> xr.Dataset:
    """The record in ``path``, in memory: a file of `save`, or the folder of an `Appended`.

    Raises DataError for what is missing, corrupt, foreign, too new or too old.
    """
    path = Path(path)
    if path.is_dir():
        from gatescope.records.append import Appended

        return Appended(path).load()
    if not path.is_file():
        raise DataError("load", "a record (netCDF)", f"no file {path}", "check the path, or make the record first")
    try:
        record = xr.load_dataset(path, engine=_ENGINE)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            "load", "a readable netCDF file", f"{path} ({reason})", "delete it and make the record again"
        ) from error
    for variable in record.variables.values():
        variable.attrs = decoded(variable.attrs)
        variable.encoding = {}
    record.attrs, record.encoding = decoded(record.attrs), {}
    try:
        return check(record, "load")
    except Refusal as error:
        raise DataError("load", error.wanted, f"{error.got} in {path}", error.next_step) from error


def encoded(attrs: dict[Any, Any], where: str) -> dict[str, Any]:
    """Attributes as strings and numbers. Raises Refusal naming ``where`` for what JSON cannot carry."""
    encoded = {}
    for name, value in sorted(attrs.items(), key=lambda item: str(item[0])):
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str):
            value = str(value)  # h5py refuses subclasses such as torch's version
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        plain = plain or (isinstance(value, str) and not value.startswith(_JSON))
        try:
            encoded[str(name)] = value if plain else _JSON + json.dumps(value, sort_keys=True)
        except TypeError as error:
            raise Refusal(
                "save",
                "attributes of strings, numbers, booleans, None, lists and dictionaries",
                f"{type(value).__name__} in attribute {name!r} of {where}",
                "convert it to one of these",
            ) from error
    return encoded


def decoded(attrs: dict[str, Any]) -> dict[str, Any]:
    """The attributes that `encoded` was given."""
    decoded = {}
    for name, value in attrs.items():
        if isinstance(value, np.generic):
            value = value.item()
        marked = isinstance(value, str) and value.startswith(_JSON)
        decoded[name] = json.loads(value[len(_JSON) :]) if marked else value
    return decoded
