"""What every view asks of a record: a variable with the dims it expects, token texts, the words below a title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import DIMS
from gatescope.errors import Refusal
from gatescope.views.style import number

#: Record variable -> what makes it.
MADE_BY: dict[str, str] = {
    **dict.fromkeys(("first_attention", "sink_score", "sink_share", "key_mass", "sink_mass"), "Sinks()"),
    **dict.fromkeys(("entropy", "entropy_normalised"), "Entropy()"),
    **dict.fromkeys(
        ("magnitude_max", "magnitude_median", "massive_ratio", "massive_count", "top_value", "top_token", "top_dim"),
        "Massive()",
    ),
    "magnitude": "Massive(keep=True)",
    "value_drain": "ValueDrain()",
    **dict.fromkeys(("gate_mean", "gate_closed", "gate_histogram", "gate_live"), "Gates()"),
    **dict.fromkeys(("expert_load", "expert_importance", "load_entropy", "coactivation", "expert_dead"), "Routing()"),
    **dict.fromkeys(("token_expert", "token_weight"), "Routing(keep=True)"),
    **dict.fromkeys(
        ("activation_small", "activation_zeros", "activation_hoyer", "neurons_silent"), "ActivationSparsity()"
    ),
    **dict.fromkeys(("resid_norm", "attention_update_norm", "mlp_update_norm"), "ResidualNorms()"),
    **dict.fromkeys(("lens_loss", "lens_divergence", "lens_entropy", "lens_agreement"), "LogitLens(model.readout)"),
    "int8_error": "OutlierSensitivity()",
    **dict.fromkeys(("state_size", "state_share", "mode_share", "operating_mode"), "StateSize()"),
}
_OF_WEIGHTS = "weight_"
#: Attributes printed under a title, in this order, when the record or the variable carries them.
_CONTEXT = (
    ("T", "T = {}"),
    ("n_samples", "sequences: {}"),
    ("first_query", "rows counted: i ≥ {}"),
    ("bos", "BOS: {}"),
    ("note", "{}"),
)


def variable(ds: xr.Dataset, name: str, view: str, dims: Sequence[str] | None = None) -> xr.DataArray:
    """``ds[name]`` with its dims in the order ``dims``.

    Raises Refusal when the record lacks the variable (naming the probe that makes it), has other dims, or is empty.
    """
    if name not in ds:
        maker = MADE_BY.get(name)
        step = f"add the probe {maker} to the Scope" if maker else f"choose one of {', '.join(map(str, ds.data_vars))}"
        if name.startswith(_OF_WEIGHTS):
            step = "measure it with weights.weight_record(model), which needs no Scope"
        raise Refusal(view, f"the variable {name!r} in the record", f"only {sorted(map(str, ds.data_vars))}", step)
    data = ds[name]
    if dims is not None and set(data.dims) != set(dims):
        extra = [str(dim) for dim in data.dims if dim not in dims]
        step = f"select first, for example record.isel({extra[0]}=0)" if extra else "measure it again with Scope"
        raise Refusal(view, f"{name}({', '.join(dims)})", f"{name}({', '.join(map(str, data.dims))})", step)
    if data.size == 0:
        raise Refusal(view, f"{name} with at least one value", f"shape {dict(data.sizes)}", "measure a longer input")
    return data.transpose(*dims) if dims is not None else data


def long_frame(data: xr.DataArray, name: str | None = None) -> pd.DataFrame:
    """One row a value, one column a dim."""
    name = name or str(data.name)
    return data.reset_coords(drop=True).to_dataframe(name).reset_index()[[*map(str, data.dims), name]]


def pieces(ds: xr.Dataset, positions: Sequence[int]) -> list[str]:
    """Texts of the tokens at ``positions``: the coordinate ``piece`` along ``token``; empty where there is none."""
    if "piece" not in ds.coords:
        return [""] * len(positions)
    texts = dict(zip(labels(ds["piece"], "token"), ds["piece"].values.tolist(), strict=True))
    return [str(texts.get(int(position), "")) for position in positions]


def labels(data: xr.DataArray | xr.Dataset, dim: str) -> list[Any]:
    """Coordinate values along ``dim``, or 0, 1, ... where the record has none."""
    return data[dim].values.tolist() if dim in data.coords else list(range(data.sizes[dim]))


def context(ds: xr.Dataset, *names: str) -> list[str]:
    """The lines under a title: T, rows counted, BOS policy, then the baseline and missing values of each variable."""
    attrs = {"T": ds.sizes["token"], **ds.attrs} if "token" in ds.sizes else dict(ds.attrs)
    if "T" not in attrs and attrs.get("n_samples"):
        attrs["T"] = f"{attrs.get('n_tokens', 0) / attrs['n_samples']:.4g} (mean)"
    for name in names:
        attrs |= ds[name].attrs
    lines = [" · ".join(text.format(attrs[key]) for key, text in _CONTEXT if key in attrs)]
    lines += dict.fromkeys(_baseline(ds[name].attrs) for name in names)
    for name in names:
        if ds[name].dtype.kind == "f" and (missing := int(np.isnan(ds[name].values).sum())):
            lines.append(f"{missing} of {ds[name].size} values of {name} are NaN")
    return [line for line in lines if line]


def _baseline(attrs: Mapping[str, Any]) -> str:
    # A baseline that only points elsewhere tells a figure's reader nothing.
    if not attrs.get("baseline") or str(attrs["baseline"]).startswith("see "):
        return ""
    if "baseline_value" not in attrs:
        return f"Baseline: {attrs['baseline']}"
    return f"Baseline = {number(float(attrs['baseline_value']))} ({attrs['baseline']})"


def quantity(data: xr.DataArray) -> str:
    """Name of a variable with its unit, for an axis: long_name (units)."""
    name = str(data.attrs.get("long_name", str(data.name).replace("_", " ")))
    unit = str(data.attrs.get("units", ""))
    return name if unit in {"", "1"} or unit in name else f"{name} ({unit})"


def extreme(frame: pd.DataFrame, column: str) -> tuple[str, str]:
    """Words for the largest value of a column and where it stands: ("0.998", "layer 12, head 3")."""
    values = frame[column]
    if values.isna().all():
        return "NaN", "everywhere"
    row = frame.loc[values.idxmax()]
    dims = [name for name in frame.columns if name in DIMS and name != column]
    return number(float(row[column])), ", ".join(
        f"{DIMS[name].name.replace('_', ' ')} {row[name]:.0f}" for name in dims
    )
