"""Value drain: the first token's value vector against the others'."""

from __future__ import annotations

import torch
import xarray as xr

from gatescope.errors import Refusal
from gatescope.probes._readers import Samples
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe
from gatescope.records import Quantity
from gatescope.taps import Event


class ValueDrain(Probe):
    """A head that parks attention on the first token often makes that token's value small, so that nothing is read.

        drain = |v_0| / mean over j > 0 of |v_j|,   v as attention uses it (a value gate included), mean over samples

    Padding is left out; of a packed sequence every document is a sample. Raises Refusal when the first key of a sample
    with text is padding, and when no sample has a second key.
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
        norms = torch.linalg.vector_norm(event.value.v, dim=-1, dtype=precise(event.value.v))[..., None]
        text = torch.ones_like(norms[:, 0, :, 0], dtype=torch.bool) if event.key_mask is None else event.key_mask
        samples = Samples.of(event.value, row_per_key=True)
        first, others = ((text & at)[:, None, :, None] for at in (samples.position == 0, samples.position > 0))
        count, begun = samples.sum_rows(others), samples.sum_rows(first)
        padded = (begun == 0) & (count > 0) if samples.packed else begun == 0
        if bool(padded.any()):
            raise Refusal("ValueDrain", "text at key 0", "padding in some sequence", "pad on the right")
        mean = samples.sum_rows(torch.where(others, norms, 0)) / count.clamp(min=1)
        ratio = torch.where(count > 0, samples.sum_rows(torch.where(first, norms, 0)) / mean, 0)
        self.sums.add(event.layer, ratio=ratio.sum((0, 2)), samples=(count > 0).sum())

    def finalize(self) -> xr.Dataset:
        """value_drain."""
        drain = self.sums.mean("ratio", "samples", "sequences of two tokens or more", "give the model more tokens")
        return self._record({"value_drain": (drain, {"baseline_value": 1.0})})
