"""The panels of lesson 04: one digit read from a memory, and the heads of SmolLM2 at another temperature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.interventions import ScaleLogits
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.probes import Entropy, StateSize
from gatescope.reading import prepare
from gatescope.views.style import Html, card, number, table
from jaxtyping import Int
from torch import Tensor

from gatescope_lessons.l04_entropy_and_energy.heads import FIRST_QUERY, read
from gatescope_lessons.l04_entropy_and_energy.live import Setting, recalled
from gatescope_lessons.l04_entropy_and_energy.memories import VARIANTS

BETAS = tuple(2.0 ** (e / 2) for e in range(-2, 21))
STORED = (1, 2, 10, 30, 100, 300, 1000)
UPDATES = (1, 2, 5, 20, 400)
KEYS = ("all keys", "all but the first token")
_STYLE = {"description_width": "130px"}
_WIDE = {"width": "60%"}


class MemoryPanel(Panel):
    """Controls ``beta``, ``stored``, ``hidden``, ``updates``, ``normaliser`` and ``digit``: every move asks the memory
    anew."""

    slug = "memory"
    pictures = ("numbers", "retrieval_gallery", "state_weights")

    def __init__(self, **settings: Any) -> None:
        def choice(options: Any, value: Any, words: str) -> ipywidgets.SelectionSlider:
            return ipywidgets.SelectionSlider(
                options=options, value=value, description=words, style=_STYLE, layout=_WIDE
            )

        betas = [(f"{beta:.3g}", beta) for beta in BETAS]
        controls = {
            "beta": choice(betas, 32.0, "beta"),
            "stored": choice(STORED, 100, "Stored digits N"),
            "hidden": ipywidgets.FloatSlider(
                0.5, min=0.0, max=1.0, step=0.125, description="Hidden share", style=_STYLE, layout=_WIDE
            ),
            "updates": choice(UPDATES, 1, "Updates, at most"),
            "normaliser": ipywidgets.Dropdown(options=list(VARIANTS), description="Normaliser", style=_STYLE),
            "digit": ipywidgets.IntSlider(0, min=0, max=29, description="Which digit", style=_STYLE, layout=_WIDE),
        }
        super().__init__(controls)
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> Iterator[dict[str, Drawing]]:
        """The numbers, the state on its way, and the weights with which it reads at the end, each as it is found."""
        record = recalled(Setting(**state))
        frame = _memory_numbers(record)
        yield {"numbers": Drawing(_memory_card(record, frame), frame)}
        for name in ("retrieval_gallery", "state_weights"):
            yield {name: Drawing(getattr(views, name)(record), getattr(views, f"{name}_frame")(record))}


def _memory_numbers(record: xr.Dataset) -> pd.DataFrame:
    attrs, energies = record.attrs, record.energy.values
    rows = [
        ("distance from the digit meant, in its norm", attrs["distance"]),
        ("patterns that hold 90 % of the weight", float(attrs["k"])),
        ("entropy of the weights, nats", attrs["entropy"]),
        ("sum of the weights", attrs["weight_sum"]),
        ("separation of the digit meant", attrs["separation"]),
        ("energy of the query", float(energies[0])),
        ("energy at the end", float(energies[-1])),
    ]
    return pd.DataFrame(rows, columns=["quantity", "value"])


def _memory_card(record: xr.Dataset, frame: pd.DataFrame) -> Html:
    attrs = record.attrs
    rest = "where it rests" if attrs["at_rest"] else "where it was stopped; it still moves"
    notes = [f"{attrs['updates']} update" + "s" * (attrs["updates"] > 1) + f", {rest}"]
    if not attrs["nearest"]:
        notes.append("Another stored digit fits what is visible of the query better: no beta can help")
    return card(attrs["finding"], notes, _rows(frame), "gs-memory-card")


class HeadsPanel(Panel):
    """Controls ``text``, ``factor`` (on every logit of attention, base 2) and ``keys``; every move runs the model."""

    slug = "heads"
    pictures = ("numbers", "mode_bars")

    def __init__(self, pretrained: Any, text: str, **settings: Any) -> None:
        self._pretrained: Any = pretrained
        self._plain: dict[tuple[str, str], tuple[xr.Dataset, float]] = {}
        controls = {
            "text": ipywidgets.Textarea(
                text, description="Text", continuous_update=False, layout={"width": "90%"}, rows=3, style=_STYLE
            ),
            "factor": ipywidgets.FloatLogSlider(
                1.0, base=2, min=-4, max=4, step=0.5, description="beta times", continuous_update=False, style=_STYLE,
                layout=_WIDE,
            ),
            "keys": ipywidgets.Dropdown(options=KEYS, description="Count", style=_STYLE),
        }  # fmt: skip
        super().__init__(controls)
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The loss beside that of the model as it is, and the class of every head."""
        tokens = prepare(self._pretrained, state["text"])
        seen = state["text"], state["keys"]
        if seen not in self._plain:
            self._plain = {seen: self._read(tokens, state["keys"], 1.0)}
        factor, (plain, plain_nll) = float(state["factor"]), self._plain[seen]
        record, nll = (plain, plain_nll) if factor == 1 else self._read(tokens, state["keys"], factor)
        frame = _head_numbers((record, nll), (plain, plain_nll))
        note = f"every logit of attention times {factor:.3g}; {state['keys']}"
        record = record.assign_attrs(T=tokens.shape[1], note=note)
        title = f"Loss {number(nll)} nats a token, {nll - plain_nll:+.2f} against the model as it is"
        shown = card(title, [note, f"T = {tokens.shape[1]}"], _rows(frame), "gs-heads-card")
        return {
            "numbers": Drawing(shown, frame),
            "mode_bars": Drawing(views.mode_bars(record), views.mode_bars_frame(record)),
        }

    def _read(self, tokens: Int[Tensor, "1 T"], keys: str, factor: float) -> tuple[xr.Dataset, float]:
        first = min(FIRST_QUERY, tokens.shape[1] // 2)
        probes = [StateSize(first_query=first, skip=() if keys == KEYS[0] else (0,)), Entropy()]
        return read(self._pretrained.model, tokens, probes, ScaleLogits(factor))


def _head_numbers(now: tuple[xr.Dataset, float], plain: tuple[xr.Dataset, float]) -> pd.DataFrame:
    columns = {
        name: {
            "next-token loss, nats": nll,
            "normalised entropy, mean over heads": float(record.entropy_normalised.mean()),
            "share of the keys that holds 90 %, mean over heads": float(record.state_share.mean()),
            "heads that average over most keys (class I)": float((record.operating_mode == 1).sum()),
            "heads that read one or a few (class IV)": float((record.operating_mode == 4).sum()),
        }
        for name, (record, nll) in (("now", now), ("as it is", plain))
    }
    return pd.DataFrame(columns).rename_axis("quantity").reset_index()


def _rows(frame: pd.DataFrame) -> str:
    cells = [[row[0], *(number(value) for value in row[1:])] for row in frame.itertuples(index=False)]
    return table(list(frame.columns), cells)


def memory_panel(**settings: Any) -> MemoryPanel:
    """A panel that reads half-hidden digits from a memory, opened at ``settings`` of its controls."""
    return MemoryPanel(**settings)


def heads_panel(pretrained: Any, text: str, **settings: Any) -> HeadsPanel:
    """A panel that runs SmolLM2 on a text with its attention at another temperature."""
    return HeadsPanel(pretrained, text, **settings)


__all__ = ["HeadsPanel", "MemoryPanel", "heads_panel", "memory_panel"]
