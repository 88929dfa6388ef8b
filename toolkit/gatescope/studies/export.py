"""A study's table as a file for other tools."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from gatescope.errors import Refusal
from gatescope.paths import atomic_write

KINDS = ("csv", "parquet")


def export(frame: pd.DataFrame, path: str | Path, kind: str) -> Path:
    """Write the table of `gather.table` to ``path``, whole or not at all.

    Raises Refusal for a kind that is not in KINDS, and for parquet where pyarrow is not installed; DataError when the
    file cannot be written.
    """
    path = Path(path)
    if kind not in KINDS:
        raise Refusal("study export", f"--to of {KINDS}", repr(kind), "choose one of them")
    if kind == "parquet" and find_spec("pyarrow") is None:
        raise Refusal("study export", "the package pyarrow for parquet", "none", "pip install pyarrow, or --to csv")
    with atomic_write(path) as temporary:
        if kind == "csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False)
    return path


__all__ = ["KINDS", "export"]
