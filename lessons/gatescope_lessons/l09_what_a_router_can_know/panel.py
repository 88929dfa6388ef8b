"""Draw data from a mixture, fit another to them, and see whose expert went where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l09_what_a_router_can_know.live import TRUTHS, Setting, fitted

SIZES = (4, 10, 30, 100, 300, 1000, 3000, 10000)


class MixturePanel(Panel):
    """Controls ``samples``, ``experts``, ``k``, ``truth`` (with its kind of gate), ``spare``, ``temperature`` and
    ``seed``; every move draws new data and fits them."""

    slug = "mixture"
    pictures = ("numbers", "mixture_fit", "voronoi_plane")

    def __init__(self, **settings: Any) -> None:
        style = {"description_width": "130px"}
        wide = {"width": "60%"}

        def whole(value: int, low: int, high: int, words: str) -> ipywidgets.IntSlider:
            return ipywidgets.IntSlider(value, min=low, max=high, description=words, style=style, layout=wide)

        controls = {
            "samples": ipywidgets.SelectionSlider(
                options=SIZES, value=300, description="Samples n", style=style, layout=wide
            ),
            "experts": whole(3, 1, 4, "Fitted experts"),
            "k": whole(4, 1, 4, "K (experts on)"),
            "truth": ipywidgets.Dropdown(options=TRUTHS, description="Truth and gate", style=style),
            "spare": whole(1, 1, 3, "Spare starts in cell"),
            "temperature": ipywidgets.FloatSlider(
                0.5, min=0.1, max=2.0, step=0.1, description="True temperature", style=style, layout=wide
            ),
            "seed": whole(0, 0, 9, "Seed"),
        }
        super().__init__(controls)
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The numbers, the fit over its data, and the cells."""
        self._controls["temperature"].layout.display = None if state["truth"] in TRUTHS[2:] else "none"
        names = {"samples": "n"}
        record = fitted(Setting(**{names.get(name, name): value for name, value in state.items()}))
        frame = _numbers(record)
        return {
            "numbers": Drawing(_card(record, frame), frame),
            **{
                name: Drawing(getattr(views, name)(record), getattr(views, f"{name}_frame")(record))
                for name in ("mixture_fit", "voronoi_plane")
            },
        }


def mixture_panel(**settings: Any) -> MixturePanel:
    """A panel that fits Gaussian mixtures of experts live, opened at ``settings`` of its controls."""
    return MixturePanel(**settings)


def _numbers(record: xr.Dataset) -> pd.DataFrame:
    attrs = record.attrs
    rows = [
        ("log-likelihood, nats a sample", attrs["log_likelihood"], attrs["log_likelihood_true"]),
        ("Hellinger distance of the densities", attrs["hellinger"], 0.0),
    ]
    if "temperature" in attrs:
        rows.append(("temperature", attrs["temperature"], attrs["temperature_true"]))
    return pd.DataFrame(rows, columns=["quantity", "fit", "truth"])


def _card(record: xr.Dataset, frame: pd.DataFrame) -> Html:
    attrs = record.attrs
    ended = "converged" if attrs["converged"] else "was stopped, still climbing,"
    notes = [f"EM {ended} after {attrs['steps']} steps"]
    if attrs["n"] < 30:
        notes.append("So few samples can be fitted better than the truth fits them: the likelihood is no judge here")
    rows = [[row.quantity, number(row.fit), number(row.truth)] for row in frame.itertuples()]
    title = f"{attrs['note']}: Hellinger distance {number(attrs['hellinger'])} from the truth"
    return card(title, notes, table(["", "fit", "truth"], rows), "gs-mixture-card")


__all__ = ["MixturePanel", "mixture_panel"]
