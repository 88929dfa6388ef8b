"""The page of one record."""

from __future__ import annotations

import json
from html import escape

import numpy as np
import pandas as pd
import xarray as xr

from gatescope import records, views
from gatescope.report.drawn import FIGURES
from gatescope.report.findings import findings
from gatescope.report.page import details, figure, finding, page, table


def scan_page(record: xr.Dataset) -> str:
    """HTML: a summary in words, the figures of whatever the record holds, every variable, where it comes from.

    Raises Refusal for a dataset that is no record.
    """
    records.check(record, "scan_page")
    said = findings(record)
    summary = "".join(finding(found.title, found.sentences, found.frame) for found in said)
    attrs = record.attrs
    model = str(attrs.get("model", "an unnamed model"))
    intro = (
        [f"{attrs['n_tokens']:,} tokens read in {attrs.get('dtype', 'unknown')} arithmetic."]
        if "n_tokens" in attrs
        else []
    )
    intro += [str(attrs["note"])] if "note" in attrs else []
    sections = [
        ("summary", "Summary", summary or "<p>The record holds nothing that a sentence is made of.</p>"),
        ("figures", "Figures", _figures(record) or "<p>No figure fits what the record holds.</p>"),
        ("variables", "Every variable", _variables(record)),
        ("provenance", "Provenance", table(_provenance(record)) + _model_config(record)),
    ]
    return page(f"Scan of {model}", intro, sections)


def variable_frame(record: xr.Dataset) -> pd.DataFrame:
    """A row a variable: its extremes and mean, baseline, and how it is defined."""
    rows = []
    for name, data in record.data_vars.items():
        values = data.values.astype(float)
        finite = values[np.isfinite(values)]
        low, mean, high = (finite.min(), finite.mean(), finite.max()) if finite.size else (np.nan,) * 3
        attrs = data.attrs
        rows.append(
            {
                "variable": str(name),
                "dims": ", ".join(map(str, data.dims)),
                "unit": str(attrs["units"]),
                "lowest": float(low),
                "mean": float(mean),
                "highest": float(high),
                "baseline": float(attrs.get("baseline_value", np.nan)),
                "meaning": str(attrs["long_name"]),
                "formula": str(attrs["formula"]),
                "what the baseline is": str(attrs["baseline"]),
                "source": str(attrs["source"]),
            }
        )
    return pd.DataFrame(rows)


def _figures(record: xr.Dataset) -> str:
    html = []
    for row in FIGURES:
        if set(row.variables) <= set(record.data_vars) and all(record[name].notnull().any() for name in row.variables):
            still, frame = row.draw(record)
            html.append(f"<h3>{escape(row.heading)}</h3>{figure(still, row.anchor, frame)}")
    if {"top_value", "top_token", "top_dim", "magnitude_median"} <= set(record.data_vars):
        frame = views.massive_table_frame(record)
        html.append(f"<h3>Largest hidden values</h3>{table(frame)}")
    return "".join(html)


def _variables(record: xr.Dataset) -> str:
    frame = variable_frame(record)
    short = ["variable", "unit", "lowest", "mean", "highest", "baseline", "meaning"]
    words = ["variable", "dims", "formula", "what the baseline is", "source"]
    return table(frame[short]) + details(frame[words], "Formulas, baselines and sources")


def _provenance(record: xr.Dataset) -> pd.DataFrame:
    attrs = {name: value for name, value in record.attrs.items() if name not in ("model_config", "files")}
    rows = [(name, str(value)) for name, value in sorted(attrs.items())]
    rows += [(f"sha256 of {name}", digest) for name, digest in dict(record.attrs.get("files") or {}).items()]
    rows += [
        (f"baseline of {name}", repr(float(data.attrs["baseline_value"])))
        for name, data in record.data_vars.items()
        if "baseline_value" in data.attrs
    ]
    return pd.DataFrame(rows, columns=["what", "value"])


def _model_config(record: xr.Dataset) -> str:
    if "model_config" not in record.attrs:
        return ""
    try:
        config = json.loads(record.attrs["model_config"])
    except ValueError:
        config = {"config": record.attrs["model_config"]}
    rows = [(str(name), json.dumps(value)) for name, value in sorted(config.items())]
    return details(pd.DataFrame(rows, columns=["setting", "value"]), "Configuration of the model")


__all__ = ["scan_page", "variable_frame"]
