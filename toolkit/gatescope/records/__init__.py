"""Records: measured numbers as labelled xarray datasets that say what they are and where they come from.

    new(variables)                  a dataset from variables made with Quantity.variable
    measured(values, coords)        the same from {quantity: (data, attributes)}, at once
    provenance(...)                 attributes that say which code and which data made it
    save(record, path), load(path)  netCDF; the same record gives the same bytes
    Appended(path)                  a record on disk that grows along step (zarr), safe against kill -9
    concat(records, dim, labels)    one dataset along variant, seed, step or text
    pair(a, b), differences(pair)   two records aligned by variable and label, and a table of how they differ
    describe(record)                a table of what each variable means

Imports neither torch nor anything that plots.
"""

from gatescope.records.append import Appended
from gatescope.records.combine import concat, merge
from gatescope.records.files import load, save
from gatescope.records.pairing import NAMING, Pair, differences, pair, renamings, where
from gatescope.records.provenance import provenance
from gatescope.records.schema import REQUIRED_ATTRS, SCHEMA, Quantity, check, describe, measured, new

__all__ = [
    "NAMING",
    "REQUIRED_ATTRS",
    "SCHEMA",
    "Appended",
    "Pair",
    "Quantity",
    "check",
    "concat",
    "describe",
    "differences",
    "load",
    "measured",
    "merge",
    "new",
    "pair",
    "provenance",
    "renamings",
    "save",
    "where",
]
