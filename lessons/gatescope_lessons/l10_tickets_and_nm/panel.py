"""Cut a trained network as far as you like, and read it N:M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
import pandas as pd
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table
from torch import nn

from gatescope_lessons.l10_tickets_and_nm.live import nm_now, prune_now

#: Shares that the slider cuts.
SPARSITIES = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
_STYLE = {"description_width": "130px"}
_WIDE = {"width": "60%"}


class PrunePanel(Panel):
    """Controls ``sparsity`` and ``scope``: every move cuts the trained networks anew and tests them."""

    slug = "prune"
    pictures = ("pruned_accuracy", "weight_profile")

    def __init__(self, networks: Sequence[nn.Module], **settings: Any) -> None:
        self._networks = networks
        options = [(f"{share:.1%}", share) for share in SPARSITIES]
        super().__init__(
            {
                "sparsity": ipywidgets.SelectionSlider(
                    options=options, value=0.8, description="Weights cut", style=_STYLE, layout=_WIDE
                ),
                "scope": ipywidgets.Dropdown(
                    options=[("the same share of every layer", "layer"), ("the smallest of all layers", "global")],
                    description="Ranked",
                    style=_STYLE,
                    layout=_WIDE,
                ),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> Iterator[dict[str, Drawing]]:
        """Accuracy by cut, every network a point, then what is left of every layer of the first."""
        accuracy, weights = prune_now(self._networks, state["sparsity"], state["scope"])
        given = (accuracy, "pruned_accuracy")
        yield {"pruned_accuracy": Drawing(views.variant_strip(*given), views.variant_strip_frame(*given))}
        yield {"weight_profile": Drawing(views.weight_profile(weights), views.weight_profile_frame(weights))}


class NMPanel(Panel):
    """Controls ``n``, ``m`` and ``layer``: the mask of a trained network, and how well it reads digits then."""

    slug = "nm"
    pictures = ("numbers", "mask_map")

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        self._network = network
        super().__init__(
            {
                "n": ipywidgets.IntSlider(2, min=0, max=16, description="N (stay)", style=_STYLE, layout=_WIDE),
                "m": ipywidgets.SelectionSlider(
                    options=(1, 2, 4, 8, 16), value=4, description="M (a group)", style=_STYLE, layout=_WIDE
                ),
                "layer": ipywidgets.Dropdown(
                    options=[("first: 64 pixels", 0), ("second: 256 neurons", 1)], description="Drawn", style=_STYLE
                ),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """A table of accuracies, and the first rows of the masked weight."""
        record, found = nm_now(self._network, state["n"], state["m"], state["layer"])
        frame = pd.DataFrame({"kept": list(found), "accuracy": list(found.values())})
        return {
            "numbers": Drawing(_card(state["n"], state["m"], found), frame),
            "mask_map": Drawing(views.mask_map(record), views.mask_map_frame(record)),
        }


def _card(n: int, m: int, found: Mapping[str, float]) -> Html:
    title = f"{n}:{m} without training: accuracy {number(found['the N largest'])}, dense {number(found['dense'])}"
    notes = ["both hidden layers; the output layer stays dense", "guessing: 0.1"]
    return card(
        title,
        notes,
        table(["kept", "accuracy"], [[name, number(value)] for name, value in found.items()]),
        "gs-nm-card",
    )


def prune_panel(networks: Sequence[nn.Module], **settings: Any) -> PrunePanel:
    """A panel that cuts trained networks live, opened at ``settings`` of its controls."""
    return PrunePanel(networks, **settings)


def nm_panel(network: nn.Module, **settings: Any) -> NMPanel:
    """A panel that reads a trained network N:M live, opened at ``settings`` of its controls."""
    return NMPanel(network, **settings)


__all__ = ["NMPanel", "PrunePanel", "nm_panel", "prune_panel"]
