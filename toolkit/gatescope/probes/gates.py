"""Gate scores: how open, how selective, and whether a gate is alive at all."""

from __future__ import annotations

import torch
import xarray as xr

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

_QIU = "Qiu et al. 2025, Gated Attention for Large Language Models"
_OURS = "metrics of this project, after Qiu et al. 2025"
#: A gate is closed below CLOSED; it is dead when all its scores are within SATURATED of 0, or of 1.
CLOSED, SATURATED = 0.1, 0.01


class Gates(Probe):
    """Scores of the gate of each block, per head where the gate knows heads. Padding is left out.

    position  which gate, where blocks have several: "sdpa", "value", "key", "query" or "output"
    bins      of the histogram over ``span``; scores beyond it fall into its end bins

    Raises Refusal when a model shows gates at several positions and none was chosen.
    """

    name = "gates"
    sites = frozenset({"gate"})
    quantities = (
        Quantity(
            "gate_mean",
            ("layer", "gate_head"),
            "1",
            "mean gate score",
            "mean over samples, tokens and channels of s",
            _QIU,
            "logits of 0 through a sigmoid: 0.5; no gate: 1 (multiplied), 0 (added)",
        ),
        Quantity(
            "gate_closed",
            ("layer", "gate_head"),
            "1",
            "share of closed gate scores",
            "share of scores with |s| < 0.1",
            _QIU,
            "uniform scores in (0, 1): 0.1",
        ),
        Quantity(
            "gate_histogram",
            ("layer", "gate_head", "bin"),
            "1",
            "share of gate scores",
            "share of scores in the bin around the coordinate; beyond the span: in the end bins",
            _QIU,
            "uniform scores over the span: 1/bins",
        ),
        Quantity(
            "gate_live",
            ("layer", "gate_head"),
            "1",
            "gate is alive",
            "not (all |s| <= 0.01) and not (multiplied and all s >= 0.99)",
            _OURS,
            "no gate: false",
        ),
        Quantity(
            "gate_token_variance",
            ("layer",),
            "1",
            "variance of gate scores over tokens",
            "variance over samples and tokens of s, mean over heads and channels",
            _OURS,
            "scores that do not depend on the query: 0",
        ),
        Quantity(
            "gate_head_variance",
            ("layer",),
            "1",
            "variance of gate scores over heads",
            "variance over heads of the head's mean score",
            _OURS,
            "heads alike, or one gate shared by all: 0",
        ),
    )

    def __init__(self, position: str | None = None, bins: int = 20, span: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if bins < 1 or not span[0] < span[1]:
            raise Refusal("Gates", "bins >= 1 over a span that grows", f"bins={bins}, span={span}", "use span=(0, 1)")
        self.position, self.bins, self.span = position, bins, span

    def watch(self, event: Event) -> None:
        """Add the scores of one gate."""
        if self.position not in (None, event.value.position):
            return
        self.sums.kinds.add((event.value.position, event.value.combine))
        if len(self.sums.kinds) > 1:
            raise Refusal(
                "Gates",
                "one kind of gate",
                f"{sorted(self.sums.kinds)}",
                f"choose one: Gates({event.value.position!r})",
            )
        scores = event.value.scores.detach()
        B, N, T, W = scores.shape
        rows = text_positions(event, (B, T), scores.device)
        s = scores.transpose(1, 2)[rows].to(precise(scores))  # [rows N W]
        low, high = self.span
        index = ((s - low) / (high - low) * self.bins).nan_to_num().floor().clamp(0, self.bins - 1).long()
        histogram = torch.zeros(N, self.bins, dtype=s.dtype, device=s.device)
        index = index.transpose(0, 1).flatten(1)
        histogram.scatter_add_(1, index, torch.ones_like(index, dtype=s.dtype))
        size = s.abs()
        self.sums.add(
            event.layer,
            score=s.sum(0),
            square=s.square().sum(0),
            closed=(size < CLOSED).sum((0, 2)),
            histogram=histogram,
            open=(s >= 1 - SATURATED).sum((0, 2)),
            shut=(size <= SATURATED).sum((0, 2)),
            rows=rows.sum(),
            channels=torch.tensor(W, device=s.device) * rows.sum(),
        )

    def finalize(self) -> xr.Dataset:
        """Everything in ``quantities``, with the gate's position and how it combines as attributes."""
        sums = self.sums
        wanted = ("tokens with gate scores", "give the model text")
        mean = sums.mean("score", "rows", *wanted)
        variance = (sums.mean("square", "rows", *wanted) - mean**2).clip(0)
        scores = sums.read("channels")[:, None]
        ((position, combine),) = self.sums.kinds
        live = sums.read("shut") < scores
        if combine == "multiply":
            live &= sums.read("open") < scores
        low, high = self.span
        width = (high - low) / self.bins
        record = self._record(
            {
                "gate_mean": (mean.mean(-1), {}),
                "gate_closed": (sums.mean("closed", "channels", *wanted), {"baseline_value": CLOSED}),
                "gate_histogram": (
                    sums.mean("histogram", "channels", *wanted),
                    {"baseline_value": 1 / self.bins, "bin_width": width},
                ),
                "gate_live": (live, {}),
                "gate_token_variance": (variance.mean((-1, -2)), {"baseline_value": 0.0}),
                "gate_head_variance": (mean.mean(-1).var(-1), {"baseline_value": 0.0}),
            },
            bin=[low + width * (place + 0.5) for place in range(self.bins)],
        )
        for variable in record.data_vars.values():
            variable.attrs.update(position=position, combine=combine)
        return record
