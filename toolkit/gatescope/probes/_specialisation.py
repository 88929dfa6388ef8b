"""Specialisation: what the expert of a token says of the group the token belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from gatescope.errors import Refusal
from gatescope.records import Quantity, new

_SOURCE = "metrics of this project, after Shannon 1948"
GROUP_EXPERT = Quantity(
    "group_expert",
    ("layer", "group", "expert"),
    "1",
    "share of the group's visits that go to the expert",
    "N_ge / sum_j N_gj, N_ge = tokens of group g that visit expert e; NaN for a group without tokens",
    _SOURCE,
    "experts that do not care for groups: the load of the expert",
)
INFORMATION = Quantity(
    "group_information",
    ("layer",),
    "nats",
    "information of the expert about the group",
    "sum over g, e of p(g, e) log(p(g, e) / (p(g) p(e))), p(g, e) = N_ge / sum N",
    _SOURCE,
    "experts that do not care for groups: 0; at most log of the smaller number of groups or experts",
)


def specialisation(record: xr.Dataset, group: Sequence[int] | np.ndarray, names: Sequence[str] = ()) -> xr.Dataset:
    """Which experts serve which group of tokens, and the mutual information of the two.

    record  of Routing(keep=True): every visit with a weight that is not 0 counts
    group   a whole number from 0 for each of its tokens
    names   of the groups; their numbers unless given

    Raises Refusal for a record without the map of tokens, and for groups that are not one for each token.
    """
    if "token_expert" not in record:
        got = f"only {sorted(map(str, record.data_vars))}"
        raise Refusal("specialisation", "token_expert(layer, token, choice)", got, "measure with Routing(keep=True)")
    groups = np.asarray(group)
    tokens = record.sizes["token"]
    if groups.shape != (tokens,) or groups.dtype.kind not in "iu" or (groups < 0).any():
        got = f"{groups.dtype} of shape {groups.shape}"
        raise Refusal(
            "specialisation", f"whole numbers from 0, one for each of {tokens} tokens", got, "check the groups"
        )
    G, E = max(int(groups.max()) + 1, len(names)), record.sizes["expert"]
    index = record["token_expert"].transpose("layer", "token", "choice").values
    visits = (record["token_weight"].transpose("layer", "token", "choice").values != 0) & np.isfinite(index)
    counts = np.zeros((len(index), G, E))
    layer, token, choice = np.nonzero(visits)
    np.add.at(counts, (layer, groups[token], index[layer, token, choice].astype(int)), 1)
    labels = {"layer": record["layer"], "group": list[str | int](names) or list(range(G)), "expert": record["expert"]}
    own = counts.sum(-1, keepdims=True)
    shares = np.where(own > 0, counts / np.maximum(own, 1), np.nan)
    return new(
        {
            "group_expert": GROUP_EXPERT.variable(shares, labels, baseline_value=1 / E),
            "group_information": INFORMATION.variable(
                [mutual_information(layer) for layer in counts], {"layer": record["layer"]}, baseline_value=0.0
            ),
        },
        most_information=math.log(min(G, E)),
    )


def mutual_information(counts: np.ndarray) -> float:
    """sum p_ge log(p_ge / (p_g p_e)) in nats of a table of counts; NaN where it is empty."""
    if not counts.sum():
        return math.nan
    p = counts / counts.sum()
    apart = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    return float((p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, apart, 1))).sum())


__all__ = ["GROUP_EXPERT", "INFORMATION", "mutual_information", "specialisation"]
