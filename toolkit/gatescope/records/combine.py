"""Several records as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from gatescope.dims import DIMS
from gatescope.errors import Refusal
from gatescope.records.schema import DEFINITION, SCHEMA, check


def merge(records: Sequence[xr.Dataset], **attrs: Any) -> xr.Dataset:
    """Records of different quantities of one measurement as one record; layers that a quantity lacks hold NaN.

    Raises Refusal for no records and when two of them have a variable of the same name.
    """
    if not records:
        raise Refusal("merge", "at least one record", "none", "measure something first")
    seen: set[str] = set()
    for record in records:
        names = set(map(str, record.data_vars))
        if seen & names:
            raise Refusal("merge", "each variable once", f"{sorted(seen & names)} twice", "leave one of the probes out")
        seen |= names
    merged = xr.merge(_with_room(records), join="outer", compat="no_conflicts", combine_attrs="drop")
    for record in records:
        for name in record.data_vars:
            merged.variables[name].attrs = dict(record.variables[name].attrs)
    merged.attrs = {"gatescope_schema": SCHEMA, **attrs}
    return check(merged, "merge")


def concat(records: Sequence[xr.Dataset], dim: str, labels: Sequence[Any]) -> xr.Dataset:
    """Records of the same quantities along a new dimension ``dim`` with ``labels``, in the given order.

    A variable that some records lack (gate_mean of a variant without a gate), and layers or tokens that only some
    have, hold NaN there; the variable's attribute ``missing_in`` names the labels that lack it. Integers and booleans
    become floats where NaN has to stand beside them. An attribute of the records on which they differ becomes a
    coordinate along ``dim`` when it is a string or a number, and is dropped otherwise. A variable's ``baseline_value``
    stays only where all agree.

    Raises Refusal for no records, labels that do not match them, a ``dim`` that is not in the legend or that a record
    has already, and variables whose units or formulas differ.
    """
    records, labels = list(records), list(labels)
    _check_arguments(records, dim, labels)
    names = dict.fromkeys(str(name) for record in records for name in record.data_vars)
    about = {name: _common(name, [record[name] for record in records if name in record]) for name in names}
    for name in names:
        lacking = [str(label) for record, label in zip(records, labels, strict=True) if name not in record]
        if lacking:
            about[name]["missing_in"] = ", ".join(lacking)
    filled = _with_room([_complete(record, records, names) for record in records])
    joined = xr.concat(
        filled,
        xr.IndexVariable(dim, labels),
        data_vars="all",
        coords="different",
        compat="equals",
        join="outer",
        combine_attrs="drop",
    )[list(names)]
    for name in names:
        joined[name].attrs = about[name]
    return check(label_attrs(joined, dim, [record.attrs for record in records]), "concat")


def label_attrs(joined: xr.Dataset, dim: str, attrs: list[dict[Any, Any]]) -> xr.Dataset:
    """``joined`` with the attributes on which all parts agree; strings and numbers that differ become coordinates."""
    joined.attrs, differing = _sorted_attrs(attrs)
    free = {
        name: (dim, values)
        for name, values in differing.items()
        if name not in joined.variables and all(isinstance(value, str | int | float) for value in values)
    }
    return joined.assign_coords(free)


def common_attrs(attrs: list[dict[Any, Any]]) -> dict[str, Any]:
    """The attributes on which all agree."""
    return _sorted_attrs(attrs)[0]


def _check_arguments(records: list[xr.Dataset], dim: str, labels: list[Any]) -> None:
    if not records:
        raise Refusal("concat", "at least one record", "none", "measure something first")
    if len(labels) != len(records) or len(set(labels)) != len(labels):
        raise Refusal("concat", f"{len(records)} different labels, one a record", str(labels), "name each record once")
    if dim not in DIMS:
        raise Refusal("concat", f"a dim among {sorted(DIMS)}", repr(dim), "add a row to dims.py")
    for record, label in zip(records, labels, strict=True):
        check(record, "concat")
        if dim in record.dims:
            raise Refusal(
                "concat", f"records without a dim {dim!r}", f"one in {label!r}", f"select one {dim}, or use another dim"
            )


def _common(name: str, variables: list[xr.DataArray]) -> dict[str, Any]:
    """Attributes on which all agree. Raises Refusal when they are defined differently."""
    for attr in DEFINITION:
        values = dict.fromkeys(str(variable.attrs[attr]) for variable in variables)
        if len(values) > 1:
            raise Refusal(
                "concat", f"one {attr} for {name!r}", " and ".join(map(repr, values)), "measure again with one of them"
            )
    return common_attrs([variable.attrs for variable in variables])


def _sorted_attrs(attrs: list[dict[Any, Any]]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Attributes on which all agree, and lists of values of those that all have but that differ."""
    shared = [name for name in attrs[0] if all(name in other for other in attrs)]
    common = {name: attrs[0][name] for name in shared if all(other[name] == attrs[0][name] for other in attrs)}
    return common, {name: [other[name] for other in attrs] for name in shared if name not in common}


def _complete(record: xr.Dataset, others: list[xr.Dataset], names: dict[str, None]) -> xr.Dataset:
    """``record`` with a variable of NaN for each name it lacks."""
    lacking = [name for name in names if name not in record]
    templates = {name: next(other[name] for other in others if name in other) for name in lacking}
    return record.assign({name: xr.full_like(found, np.nan, dtype="float64") for name, found in templates.items()})


def _with_room(records: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """The records, integers and booleans as floats wherever joining them puts NaN beside."""
    indexes: dict[str, list[Any]] = {}
    for record in records:
        for dim, index in record.indexes.items():
            indexes.setdefault(str(dim), []).append(index)
    ragged = {dim for dim, found in indexes.items() if not all(index.equals(found[0]) for index in found)}
    floats = {name for record in records for name in record.data_vars if record.variables[name].dtype.kind == "f"}
    return [_with_floats(record, floats, ragged) for record in records]


def _with_floats(record: xr.Dataset, floats: set[Any], ragged: set[str]) -> xr.Dataset:
    changed = {
        name: record[name].astype("float64")
        for name in record.data_vars
        if record.variables[name].dtype.kind in "biu" and (name in floats or ragged & set(record.variables[name].dims))
    }
    return record.assign(changed) if changed else record
