"""Value drain: the first token's value vector against the others'."""

from __future__ import annotations

import torch
import xarray as xr

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe
from gatescope.records import Quantity
from gatescope.taps import Event


class ValueDrain(Probe):
    """A head that parks attention on the first token often makes that token's value small, so that nothing is read.

        drain = |v_0| / mean over j > 0 of |v_j|,   v as attention uses it (a value gate included), mean over samples

    Padding is left out. Raises Refusal when the first key is padding and when no sequence has a second key.
    """

    name = "value_drain"
    sites = frozenset({"attention"})
    quantities = (
        Quantity(
            "value_drain",
            ("layer", "kv_head"),
            "1",
            "first value norm over the mean of the others",
            "|v_0| / mean over j > 0 of |v_j|, mean over samples",
            "Guo et al. 2024, Active-Dormant Attention Heads",
            "values of one distribution at every position: 1",
        ),
    )

    def watch(self, event: Event) -> None:
        """Add one attention."""
        norms = torch.linalg.vector_norm(event.value.v, dim=-1, dtype=precise(event.value.v))
        text = torch.ones_like(norms[:, 0], dtype=torch.bool) if event.key_mask is None else event.key_mask
        if event.key_mask is not None and not bool(text[:, 0].all()):
            raise Refusal("ValueDrain", "text at key 0", "padding in some sequence", "pad on the right")
        others = text[:, 1:]
        count = others.sum(-1)
        mean = torch.where(others[:, None], norms[..., 1:], 0).sum(-1) / count.clamp(min=1)[:, None]
        ratio = torch.where(count[:, None] > 0, norms[..., 0] / mean, 0)
        self.sums.add(event.layer, ratio=ratio.sum(0), samples=(count > 0).sum())

    def finalize(self) -> xr.Dataset:
        """value_drain."""
        drain = self.sums.mean("ratio", "samples", "sequences of two tokens or more", "give the model more tokens")
        return self._record({"value_drain": (drain, {"baseline_value": 1.0})})
