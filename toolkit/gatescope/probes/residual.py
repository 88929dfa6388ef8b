"""Residual norms: how large the stream is, and how much each block adds to it."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

_KOBAYASHI = "Kobayashi et al. 2021, Incorporating Residual and Normalization Layers into Analysis of Masked LMs"
_GROMOV = "Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers"
#: Names of the updates, and the sites that show them.
UPDATES = {"attention": "attention_update", "mlp": "mlp_update"}


def _of_update(part: str) -> tuple[Quantity, ...]:
    adder = {"attention": "attention", "mlp": "the MLP or the experts"}[part]
    return (
        Quantity(
            f"{part}_update_norm",
            ("layer",),
            "1",
            f"norm of what {adder} add{'s' if part == 'attention' else ''}",
            "mean over tokens of |u|_2, u the update",
            _KOBAYASHI,
            "standard normal: about sqrt(D)",
        ),
        Quantity(
            f"{part}_update_ratio",
            ("layer",),
            "1",
            f"update by {adder} over the stream",
            "mean over tokens of |u|_2 / |x|_2, x the stream entering the block",
            _KOBAYASHI,
            "an update distributed as the stream: about 1; a block that does nothing: 0",
        ),
        Quantity(
            f"{part}_update_cosine",
            ("layer",),
            "1",
            f"cosine of the update by {adder} with the stream",
            "mean over tokens of <u, x> / (|u|_2 |x|_2), x the stream entering the block; 0 where u = 0",
            _GROMOV,
            "independent directions: 0 (standard deviation 1/sqrt(D) a token)",
        ),
    )


class ResidualNorms(Probe):
    """Norms of the residual stream and of what every block adds to it, mean over tokens. Padding is left out.

    Ratio and cosine compare an update u with the stream x that enters the block, for attention and MLP alike: that is
    defined for blocks that add one after the other and for blocks that add both at once.

    Raises Refusal for an update that comes before any stream, and NonFiniteError for a stream that is 0 at a token.
    """

    name = "residual"
    sites = frozenset({"embed", "resid", *UPDATES.values()})
    quantities = (
        Quantity(
            "resid_norm",
            ("layer",),
            "1",
            "norm of the residual stream",
            "mean over tokens of |h|_2, h the stream leaving the block",
            _KOBAYASHI,
            "standard normal: about sqrt(D)",
        ),
        *_of_update("attention"),
        *_of_update("mlp"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._stream: Tensor | None = None

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self._stream = None

    def watch(self, event: Event) -> None:
        """Add one stream, or one update to the stream seen last."""
        x = event.value.detach()
        text = text_positions(event, tuple(x.shape[:2]), x.device)
        if event.site in ("embed", "resid"):
            self._stream = x
            if event.site == "resid":
                self.sums.add(event.layer, resid=_norm(x[text]).sum(), tokens=text.sum())
            return
        if self._stream is None:
            raise Refusal(
                "ResidualNorms",
                "the stream that enters a block before what the block adds",
                f"{event.site!r} of layer {event.layer} first",
                "show 'embed' before the blocks with taps.tap",
            )
        update, stream = x[text], self._stream[text]
        size, base = _norm(update), _norm(stream)
        dot = (update.to(size.dtype) * stream.to(size.dtype)).sum(-1)
        site = event.site
        self.sums.add(
            event.layer,
            **{
                f"{site}_norm": size.sum(),
                f"{site}_ratio": (size / base).sum(),
                f"{site}_cosine": torch.where(size == 0, 0, dot / (size * base)).sum(),
            },
        )

    def finalize(self) -> xr.Dataset:
        """Everything in ``quantities``."""
        wanted = ("tokens of text", "give the model text")
        variables: dict[str, tuple[Any, dict[str, Any]]] = {
            "resid_norm": (self.sums.mean("resid", "tokens", *wanted), {})
        }
        for part, site in UPDATES.items():
            for what in ("norm", "ratio", "cosine"):
                found = self.sums.mean(f"{site}_{what}", "tokens", *wanted)
                variables[f"{part}_update_{what}"] = (found, {"baseline_value": 0.0} if what == "cosine" else {})
        self._stream = None
        return self._record(variables)


def _norm(x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    return torch.linalg.vector_norm(x, dim=-1, dtype=precise(x))


__all__ = ["ResidualNorms"]
