"""Row entropy of attention."""

from __future__ import annotations

from typing import cast

import torch
import xarray as xr
from torch import Tensor

from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

_SOURCE = "Shannon 1948; rows with one visible key excluded (metrics of this project)"


class Entropy(Probe):
    """How spread out each head's attention is.

        H_i = -sum_j A[i,j] log A[i,j]          mean over samples and rows with n_i > 1

    n_i counts the keys row i can see (window, key mask, causality), and a learned sink as one more. Rows that are
    padding are left out. Raises Refusal when no row sees more than one key.
    """

    name = "entropy"
    sites = frozenset({"attention"})
    stats = frozenset({"entropy"})
    quantities = (
        Quantity(
            "entropy",
            ("layer", "head"),
            "nats",
            "attention entropy",
            "mean over samples and rows with n_i > 1 of H_i = -sum_j A[i,j] log A[i,j]",
            _SOURCE,
            "uniform attention: mean over the same rows of log n_i",
        ),
        Quantity(
            "entropy_normalised",
            ("layer", "head"),
            "1",
            "normalised attention entropy",
            "mean over samples and rows with n_i > 1 of H_i / log n_i",
            _SOURCE,
            "uniform attention: 1",
        ),
    )

    def watch(self, event: Event) -> None:
        """Add one attention."""
        stats = event.stats
        B, _, T = stats.lse.shape
        outcomes = stats.visible + (stats.sink_mass is not None)
        rows = text_positions(event, (B, T), stats.lse.device) & (outcomes > 1)
        log_n = outcomes.clamp(min=2).log()
        found = cast(Tensor, stats.entropy)  # this probe asks for it
        entropy = torch.where(rows[:, None], found, 0).to(precise(found))
        self.sums.add(
            event.layer,
            entropy=entropy.sum((0, 2)),
            normalised=(entropy / log_n[:, None]).sum((0, 2)),
            uniform=torch.where(rows, log_n, 0).sum(dtype=precise(log_n)),
            rows=rows.sum(),
        )

    def finalize(self) -> xr.Dataset:
        """entropy in nats and entropy_normalised."""
        wanted = ("rows that see more than one key", "give the model more than one token, or a wider window")
        uniform = self.sums.mean("uniform", "rows", *wanted).mean()
        return self._record(
            {
                "entropy": (self.sums.mean("entropy", "rows", *wanted), {"baseline_value": uniform}),
                "entropy_normalised": (self.sums.mean("normalised", "rows", *wanted), {"baseline_value": 1.0}),
            }
        )
