"""Routing saturation: how early in training tokens find their experts, from two records."""

from __future__ import annotations

import numpy as np
import xarray as xr

from gatescope.errors import Refusal
from gatescope.records import Quantity, new

#: What `saturation` measures.
SATURATION = Quantity(
    "routing_saturation",
    ("layer",),
    "1",
    "share of a token's experts that are those of the other record",
    "mean over tokens of |topk(t) & topk(final)| / k",
    "Muennighoff et al. 2024, OLMoE: Open Mixture-of-Experts Language Models (router saturation)",
    "k different experts a token, all alike, in both records: k/E",
)


def saturation(record: xr.Dataset, final: xr.Dataset) -> xr.Dataset:
    """How much of the final routing is there already: the experts that tokens visit in two records, compared.

        mean over tokens of |topk(t) & topk(final)| / k

    Both are records of Routing(keep=True) of the same tokens, of two checkpoints of one model; layers without a router
    hold NaN. Raises Refusal for
    records without token_expert, or of other layers, tokens or numbers of experts.
    """
    for which, ds in (("record", record), ("final", final)):
        if "token_expert" not in ds:
            raise Refusal(
                "saturation",
                f"token_expert(layer, token, choice) in {which}",
                f"only {sorted(map(str, ds.data_vars))}",
                "measure one sequence with Routing(keep=True)",
            )
    ours, theirs = record["token_expert"], final["token_expert"]
    E = record.sizes["expert"]
    same = all(ours.indexes[dim].equals(theirs.indexes[dim]) for dim in ours.dims)
    if not same or final.sizes["expert"] != E:
        raise Refusal(
            "saturation",
            f"the same layers, tokens, choices and experts: {dict(ours.sizes)} of {E}",
            f"{dict(theirs.sizes)} of {final.sizes['expert']}",
            "measure two checkpoints of one model on the same tokens",
        )
    found = (ours.values[..., :, None] == theirs.values[..., None, :]).any(-1).mean((-1, -2))
    routed = (ours.notnull() & theirs.notnull()).all(("token", "choice"))
    found = np.where(routed, found, np.nan)
    k = ours.sizes["choice"]
    return new({"routing_saturation": SATURATION.variable(found, {"layer": ours["layer"]}, baseline_value=k / E)})


__all__ = ["SATURATION", "saturation"]
