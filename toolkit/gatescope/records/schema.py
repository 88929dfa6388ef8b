"""What a record is: variables that carry their definition, along the dimensions of dims.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import DIMS
from gatescope.errors import Refusal

#: Version of the layout below, and the oldest that is still read.
SCHEMA, OLDEST = 1, 1
#: What every variable of a record says about itself.
REQUIRED_ATTRS = ("units", "long_name", "formula", "source", "baseline")
#: Variables that differ in these measured different things.
DEFINITION = ("units", "formula")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured quantity, defined once: its variable carries all of this as attributes.

    name       of the variable
    dims       record dimensions, names of gatescope.dims.DIMS
    units      "1" for a pure number
    long_name  what an axis or a colour bar says
    formula    the equation, in the letters of dims.py
    source     where the definition comes from
    baseline   its value on a random or uniform input, in words with the formula

    Raises Refusal for a dimension that the legend does not have.
    """

    name: str
    dims: tuple[str, ...]
    units: str
    long_name: str
    formula: str
    source: str
    baseline: str

    def __post_init__(self) -> None:
        unknown = [dim for dim in self.dims if dim not in DIMS]
        if unknown:
            raise Refusal(
                "Quantity", f"dims among {sorted(DIMS)}", f"{unknown} in {self.name!r}", "add a row to dims.py"
            )

    def variable(
        self,
        data: Any,
        coords: Mapping[str, Any] | None = None,
        *,
        baseline_value: float | int | None = None,
        **attrs: Any,
    ) -> xr.DataArray:
        """``data`` along ``dims``, with this definition as attributes and 0-based coordinates where none are given.

        ``baseline_value`` is the baseline as a number, for figures to draw. Raises Refusal when the shape does not
        fit the dims.
        """
        found = self._plain(data, baseline_value=baseline_value, **attrs)
        return xr.DataArray(found, coords=_labels(found, coords or {}), name=self.name)

    def _plain(self, data: Any, *, baseline_value: float | int | None = None, **attrs: Any) -> xr.Variable:
        """`variable` without coordinates."""
        data = np.asarray(data)
        if data.ndim != len(self.dims):
            raise Refusal(
                self.name, f"{len(self.dims)} dimensions {self.dims}", f"shape {data.shape}", "check the reduction"
            )
        about = {field.name: getattr(self, field.name) for field in fields(self) if field.name in REQUIRED_ATTRS}
        if baseline_value is not None:
            about["baseline_value"] = float(baseline_value)
        return xr.Variable(self.dims, data, about | attrs)

    def row(self) -> dict[str, str]:
        """The definition as one row of a table of documentation."""
        return {
            "variable": self.name,
            "dims": ", ".join(self.dims),
            "unit": self.units,
            "meaning": self.long_name,
            "formula": self.formula,
            "source": self.source,
            "baseline": self.baseline,
        }


def _labels(variable: xr.Variable, coords: Mapping[str, Any]) -> dict[str, Any]:
    return {
        dim: coords.get(dim, np.arange(size)) for dim, size in zip(map(str, variable.dims), variable.shape, strict=True)
    }


def measured(values: Mapping[Quantity, tuple[Any, Mapping[str, Any]]], coords: Mapping[str, Any]) -> xr.Dataset:
    """A record of {quantity: (data, attributes)} that share their labels, as `new` of each `Quantity.variable` gives.

    Aligning variables one by one takes longer than a small model's forward pass, so labels are made once.
    """
    variables = {quantity.name: quantity._plain(data, **about) for quantity, (data, about) in values.items()}
    labels = {name: label for variable in variables.values() for name, label in _labels(variable, coords).items()}
    return check(xr.Dataset(variables, labels, {"gatescope_schema": SCHEMA}))


def new(variables: Mapping[str, xr.DataArray], **attrs: Any) -> xr.Dataset:
    """A record of these variables. Raises Refusal for a variable without its definition or along an unknown dim."""
    record = xr.Dataset(dict(variables), attrs={"gatescope_schema": SCHEMA, **attrs})
    return check(record)


def check(record: xr.Dataset, operator: str = "record") -> xr.Dataset:
    """``record``, if it is one: it has a schema version this code reads, and every variable says what it is.

    Raises Refusal naming the variable and what it lacks.
    """
    version = record.attrs.get("gatescope_schema")
    if version is None:
        raise Refusal(
            operator, "a gatescope record (attribute gatescope_schema)", "a dataset without", "make it with records.new"
        )
    if isinstance(version, bool) or not isinstance(version, int | np.integer):
        raise Refusal(operator, "a whole number as gatescope_schema", repr(version), "make it with records.new")
    if version > SCHEMA:
        raise Refusal(operator, f"a record of schema {SCHEMA} or older", f"schema {version}", "update gatescope")
    if version < OLDEST:
        made = record.attrs.get("gatescope")
        maker = f"gatescope {made}" if made else "the gatescope that made it"
        raise Refusal(
            operator,
            f"a record of schema {OLDEST} or newer",
            f"schema {version}",
            f"measure again with this version, or read it with {maker}",
        )
    for name in record.data_vars:  # as Variables: making a DataArray of each takes most of the time
        attrs = record.variables[name].attrs
        lacking = [attr for attr in REQUIRED_ATTRS if not isinstance(attrs.get(attr), str)]
        if lacking:
            raise Refusal(
                operator,
                f"attributes {', '.join(REQUIRED_ATTRS)} on every variable",
                f"{name!r} without {', '.join(lacking)}",
                "make the variable with records.Quantity",
            )
    unknown = [dim for dim in record.dims if dim not in DIMS]
    if unknown:
        raise Refusal(operator, f"dims among {sorted(DIMS)}", str(unknown), "add a row to dims.py")
    return record


def describe(record: xr.Dataset) -> pd.DataFrame:
    """What each variable of a record is: one row a variable with dims, unit, meaning, formula, source and baseline."""
    check(record, "describe")
    rows = [
        Quantity(str(name), tuple(map(str, variable.dims)), *(variable.attrs[attr] for attr in REQUIRED_ATTRS)).row()
        for name, variable in record.data_vars.items()
    ]
    return pd.DataFrame(rows)
