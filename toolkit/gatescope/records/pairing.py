"""Two records side by side: what both measured, at the places that both have."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.records.combine import concat
from gatescope.records.schema import DEFINITION, check

#: Variables that hold names of tokens, dimensions or experts: they agree or not, and a difference of two means nothing.
NAMING = frozenset({"top_token", "top_dim", "token_expert"})
#: Settings of a probe that change what a variable measures, though not its formula.
_SETTINGS = ("first_query", "epsilon", "threshold")
#: Attributes of records that change the numbers, and what they are called.
_TOLD = {
    "T": "Tokens a sequence",
    "n_tokens": "Tokens read",
    "n_samples": "Sequences",
    "dtype": "Arithmetic",
    "bos": "BOS",
}
_LISTED = 6


@dataclass(frozen=True)
class Pair:
    """Two records, aligned.

    record  the variables of both at the labels of both, along the dim ``record``
    only    label -> variables that only this record has
    notes   sentences on what was left out and on what may explain a difference
    """

    record: xr.Dataset
    only: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def unmatched(self) -> list[str]:
        """A sentence for each record that has variables of its own."""
        return [f"Only in {label}: {', '.join(names)}" for label, names in self.only.items() if names]

    @property
    def labels(self) -> tuple[str, str]:
        """What the two are called."""
        first, second = self.record["record"].values.tolist()
        return first, second


def pair(
    a: xr.Dataset, b: xr.Dataset, labels: Sequence[str] = ("A", "B"), variables: Sequence[str] | None = None
) -> Pair:
    """Align two records by variable and by label.

    variables  compare these alone; all that both have when None

    Raises Refusal for datasets that are no records, for variables whose units, formula, dims or settings differ, for a
    variable named that one of them lacks, and when nothing is left to compare.
    """
    if len(labels) != 2 or labels[0] == labels[1]:
        raise Refusal("compare", "two different labels", f"{tuple(labels)}", "pass labels=('A', 'B')")
    for record in (a, b):
        check(record, "compare")
    a, b = (_chosen(record, variables, label) for record, label in zip((a, b), labels, strict=True))
    only = {labels[0]: _lacking(a, b), labels[1]: _lacking(b, a)}
    common = [str(name) for name in a.data_vars if name in b]
    if not common:
        got = "; ".join(f"{label} with {', '.join(names) or 'none'}" for label, names in only.items())
        raise Refusal("compare", "records with a variable in common", got, "measure both with the same probes")
    notes = [f"{name} holds text, which is not compared" for name in common if _text(a[name]) or _text(b[name])]
    common = [name for name in common if not (_text(a[name]) or _text(b[name]))]
    for name in common:
        _same_definition(name, a[name], b[name], labels)
    a, b = (_labelled(record[common], label) for record, label in zip((a, b), labels, strict=True))
    b = b.assign({name: b[name].transpose(*a[name].dims) for name in common})
    notes += _unshared(a, b, labels) + _told(a, b, labels)
    first, second = xr.align(a, b, join="inner", copy=False)
    empty = [name for name in common if first[name].size == 0]
    notes += [f"{name} has no place that both records hold" for name in empty]
    kept = [name for name in common if name not in empty]
    if not kept:
        raise Refusal("compare", "records with a label in common", "; ".join(notes), "measure the same layers or steps")
    joined = concat([first[kept], second[kept]], "record", list(labels))
    return Pair(joined.drop_vars([name for name in joined.coords if joined[name].ndim > 1]), only, tuple(notes))


def differences(pair: Pair) -> pd.DataFrame:
    """A row a variable, the largest effect first; the means run over the ``places`` where both hold a finite number.

        difference = mean(B) - mean(A)      effect = difference / sqrt((var(A) + var(B)) / 2)

    The effect is Cohen's d over places (Cohen 1988, Statistical Power Analysis), without a unit, NaN for one place and
    where neither varies. largest is the difference of largest size at one place, ``where`` that place, and there_a and
    there_b are its values. missing counts places without a number in one of them or both. `NAMING` variables are left
    to `renamings`.
    """
    rows = [_row(str(name), data) for name, data in pair.record.data_vars.items() if name not in NAMING]
    columns = ["variable", "unit", "mean_a", "mean_b", "difference", "effect", "largest", "where", "there_a", "there_b"]
    frame = pd.DataFrame(rows, columns=[*columns, "places", "missing"])
    return frame.sort_values("effect", key=abs, ascending=False, kind="stable", ignore_index=True)


def renamings(pair: Pair) -> pd.DataFrame:
    """A row a variable of `NAMING`: the share of places where the names differ, and the first such place."""
    rows = []
    for name in sorted(NAMING & set(map(str, pair.record.data_vars))):
        first, second = (pair.record[name].isel(record=side) for side in (0, 1))
        differ = ((first != second) & first.notnull() & second.notnull()).values
        known = int((first.notnull() & second.notnull()).sum())
        at = int(differ.argmax()) if differ.any() else None
        place = "" if at is None else where(first, at)
        values = [np.nan] * 2 if at is None else [float(side.values.flat[at]) for side in (first, second)]
        rows.append((name, differ.sum() / known if known else np.nan, place, *values, known))
    return pd.DataFrame(rows, columns=["variable", "share", "where", "there_a", "there_b", "places"])


def where(data: xr.DataArray, index: int) -> str:
    """The place of the ``index``-th value of ``data`` in words: "layer 12, head 3", or "the only value"."""
    if not data.ndim:
        return "the only value"
    at = np.unravel_index(index, data.shape)
    return ", ".join(
        f"{str(dim).replace('_', ' ')} {_shown(data[dim].values[place])}"
        for dim, place in zip(data.dims, at, strict=True)
    )


def _row(name: str, data: xr.DataArray) -> tuple[Any, ...]:
    first, second = (data.isel(record=side).astype("float64") for side in (0, 1))
    x, y = first.values.ravel(), second.values.ravel()
    both = np.isfinite(x) & np.isfinite(y)
    unit, missing = str(data.attrs["units"]), int(x.size - both.sum())
    if not both.any():
        return (name, unit, *[np.nan] * 5, "", np.nan, np.nan, 0, missing)
    a, b = x[both], y[both]
    change = np.where(both, y - x, 0.0)
    at = int(np.abs(change).argmax())
    spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) if len(a) > 1 else 0.0
    gap = b.mean() - a.mean()
    effect = gap / spread if spread > 0 else np.nan
    place = where(first, at) if change[at] else ""
    there = (x[at], y[at]) if change[at] else (np.nan, np.nan)
    return (name, unit, a.mean(), b.mean(), gap, effect, change[at], place, *there, int(both.sum()), missing)


def _chosen(record: xr.Dataset, variables: Sequence[str] | None, label: str) -> xr.Dataset:
    if variables is None:
        return record
    if lost := [name for name in variables if name not in record.data_vars]:
        known = ", ".join(map(str, record.data_vars))
        raise Refusal(
            "compare", f"variables that both records have, in {label} one of {known}", ", ".join(lost), "leave them out"
        )
    return record[list(dict.fromkeys(variables))]


def _lacking(record: xr.Dataset, other: xr.Dataset) -> tuple[str, ...]:
    return tuple(str(name) for name in record.data_vars if name not in other)


def _text(data: xr.DataArray) -> bool:
    return data.dtype.kind not in "fiub"


def _same_definition(name: str, a: xr.DataArray, b: xr.DataArray, labels: Sequence[str]) -> None:
    pairs = {attr: (a.attrs.get(attr), b.attrs.get(attr)) for attr in (*DEFINITION, *_SETTINGS)}
    pairs["dims"] = (tuple(sorted(map(str, a.dims))), tuple(sorted(map(str, b.dims))))
    for what, (one, other) in pairs.items():
        if one != other:
            raise Refusal(
                "compare",
                f"one definition of {name!r}",
                f"{what} {one!r} in {labels[0]} and {other!r} in {labels[1]}",
                "measure both alike, select along dims first, or compare other variables",
            )


def _labelled(record: xr.Dataset, label: str) -> xr.Dataset:
    """``record`` with a coordinate along every dim, 0, 1, ... where there is none. Raises Refusal for labels twice."""
    bare = {dim: range(size) for dim, size in record.sizes.items() if dim not in record.coords}
    record = record.assign_coords(bare)
    for dim, index in record.indexes.items():
        if not index.is_unique:
            twice = index[index.duplicated()][0]
            raise Refusal(
                "compare", f"every label of {dim} once", f"{_shown(twice)} twice in {label}", "select one of them first"
            )
    return record


def _unshared(a: xr.Dataset, b: xr.Dataset, labels: Sequence[str]) -> list[str]:
    """Sentences on labels that only one of the records has."""
    notes = []
    for dim in (dim for dim in a.indexes if dim in b.indexes and not a.indexes[dim].equals(b.indexes[dim])):
        one, other = a.indexes[dim], b.indexes[dim]
        shared = one.intersection(other, sort=False)
        lost = [
            f"{len(rest)} only in {label} ({_span(rest)})"
            for label, rest in ((labels[0], one.difference(other)), (labels[1], other.difference(one)))
            if len(rest)
        ]
        compared = f"compared at the {len(shared)} common ones" if len(shared) else "none in common"
        if lost:
            notes.append(f"Labels of {dim} differ: {', '.join(lost)}; {compared}")
    return notes


def _told(a: xr.Dataset, b: xr.Dataset, labels: Sequence[str]) -> list[str]:
    """Sentences on how the measurements differ where that moves numbers."""
    notes = [
        f"{meaning}: {a.attrs[attr]} in {labels[0]}; {b.attrs[attr]} in {labels[1]}"
        for attr, meaning in _TOLD.items()
        if attr in a.attrs and attr in b.attrs and a.attrs[attr] != b.attrs[attr]
    ]
    digests = [record.attrs.get("tokens_sha256") for record in (a, b)]
    pieces = [record["piece"].values.tolist() if "piece" in record.coords else None for record in (a, b)]
    if _differ(*digests) or _differ(*pieces):
        notes.append("The texts differ: numbers along token compare positions, not words")
    return notes


def _differ(one: Any, other: Any) -> bool:
    return one is not None and other is not None and one != other


def _span(index: Iterable[Hashable]) -> str:
    shown = [_shown(label) for label in index]
    if len(shown) <= _LISTED:
        return ", ".join(shown)
    return f"{shown[0]} to {shown[-1]}"


def _shown(label: Any) -> str:
    label = label.item() if isinstance(label, np.generic) else label
    return f"{label:.6g}" if isinstance(label, float) else str(label)


__all__ = ["NAMING", "Pair", "differences", "pair", "renamings", "where"]
