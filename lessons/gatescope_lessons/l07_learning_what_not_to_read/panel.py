"""The panels of lesson 07: caches at a budget, and attention that reads a part of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from gatescope import views
from gatescope.models.smollm2 import Pretrained
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l07_learning_what_not_to_read import lab, texts
from gatescope_lessons.l07_learning_what_not_to_read.live import Cached, Masked, Reading

ALL_LAYERS = "all"
_STYLE, _WIDE = {"description_width": "110px"}, {"width": "60%"}
_FEWEST, _STEP = 8, 8


class _ReadingPanel(Panel):
    """What both panels share: the texts, each read in full once, and the last pass."""

    def __init__(self, pretrained: Pretrained, controls: Mapping[str, Any], **settings: Any) -> None:
        self._reading = cache(lambda name: Reading(pretrained, name))
        text = ipywidgets.Dropdown(options=texts.NAMES, description="Text", style=_STYLE)
        super().__init__({**controls, "text": text})
        self.apply(**settings)
        self._defaults = self.state


class CachePanel(_ReadingPanel):
    """Controls ``policy``, ``budget`` (keys a head keeps), ``layer`` (of the picture) and ``text``. A move of policy,
    budget or text reads the text again."""

    slug = "cache"
    pictures = ("numbers", "token_strip")

    def __init__(self, pretrained: Pretrained, **settings: Any) -> None:
        layers = (ALL_LAYERS, *range(pretrained.config.n_layers))
        self._passes = cache(lambda text, policy, budget: self._reading(text).cached(policy, budget))
        controls = {
            "budget": ipywidgets.IntSlider(
                lab.BUDGET,
                min=_FEWEST,
                max=texts.LENGTH,
                step=_STEP,
                description="Keys kept",
                style=_STYLE,
                layout=_WIDE,
            ),
            "policy": ipywidgets.Dropdown(options=lab.POLICIES, description="Policy", style=_STYLE),
            "layer": ipywidgets.SelectionSlider(options=layers, description="Layer shown", style=_STYLE, layout=_WIDE),
        }
        super().__init__(pretrained, controls, **settings)

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The losses beside those of all keys, and the tokens, coloured by how many heads still hold them."""
        reading = self._reading(state["text"])
        found: Cached = self._passes(state["text"], state["policy"], state["budget"])
        record = found.record(reading.pieces, None if state["layer"] == ALL_LAYERS else state["layer"])
        frame = _losses(reading.full, found.loss)
        left = float(found.kept.sum(-1).mean())
        notes = [f"{number(left)} of {texts.LENGTH} keys are left to a head after the last token"]
        if state["budget"] >= texts.LENGTH:
            notes.append("The budget holds the whole text: nothing is dropped")
        title = f"{state['policy']}, {state['budget']} keys a head"
        return {
            "numbers": Drawing(_card(title, notes, frame, "gs-cache-card"), frame),
            "token_strip": Drawing(views.token_strip(record, "kept"), views.token_strip_frame(record, "kept")),
        }


class BlocksPanel(_ReadingPanel):
    """Controls ``keep`` (key blocks a row reads), ``scorer``, ``layer`` and ``head`` (of the picture) and ``text``. A
    move of keep, scorer or text reads the text again."""

    slug = "blocks"
    pictures = ("numbers", "block_map")

    def __init__(self, pretrained: Pretrained, **settings: Any) -> None:
        rows, heads = texts.LENGTH // texts.BLOCK, lab.heads(pretrained)
        self._passes = cache(lambda text, scorer, keep: self._reading(text).masked(scorer, keep))
        controls = {
            "keep": ipywidgets.IntSlider(
                lab.KEEP, min=1, max=rows, description="Blocks a row", style=_STYLE, layout=_WIDE
            ),
            "scorer": ipywidgets.Dropdown(options=lab.SCORERS, description="Chosen by", style=_STYLE),
            "layer": ipywidgets.IntSlider(
                0, min=0, max=pretrained.config.n_layers - 1, description="Layer shown", style=_STYLE, layout=_WIDE
            ),
            "head": ipywidgets.IntSlider(0, min=0, max=heads - 1, description="Head shown", style=_STYLE, layout=_WIDE),
        }
        super().__init__(pretrained, controls, **settings)

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The losses beside those of all blocks, and the blocks of one head: worth what, and read or not."""
        reading = self._reading(state["text"])
        found: Masked = self._passes(state["text"], state["scorer"], state["keep"])
        record = reading.block_record(found, state["layer"], state["head"])
        held = float((reading.worth * found.read).sum(-1).mean())
        frame = _losses(reading.full, found.loss)
        notes = [
            f"{number(100 * found.share)} % of the visible blocks are read, the first and the own one always",
            f"They hold {number(100 * held)} % of the block maxima, the mean over layers, heads and rows",
        ]
        title = f"{state['scorer']}, {state['keep']} blocks of {texts.BLOCK} tokens a row"
        return {
            "numbers": Drawing(_card(title, notes, frame, "gs-blocks-card"), frame),
            "block_map": Drawing(views.block_map(record), views.block_map_frame(record)),
        }


def _losses(full: np.ndarray, now: np.ndarray) -> pd.DataFrame:
    columns = {"all keys": full, "now": now, "lost": now - full}
    return pd.DataFrame({"part": texts.PARTS, **{name: values.astype(float) for name, values in columns.items()}})


def _card(title: str, notes: Sequence[str], frame: pd.DataFrame, css_class: str) -> Html:
    lost = ", ".join(f"{number(row.lost)} {row.part}" for row in frame.itertuples())
    rows = [[str(row[0]), *(number(value) for value in row[1:])] for row in frame.values]
    heads = ["loss (nats a token)", *frame.columns[1:]]
    return card(f"{title}: lost {lost}", notes, table(heads, rows), css_class)


def cache_panel(pretrained: Pretrained, **settings: Any) -> CachePanel:
    """A panel of caches at a budget, opened at ``settings`` of its controls."""
    return CachePanel(pretrained, **settings)


def blocks_panel(pretrained: Pretrained, **settings: Any) -> BlocksPanel:
    """A panel of attention that reads a part of its blocks, opened at ``settings`` of its controls."""
    return BlocksPanel(pretrained, **settings)


__all__ = ["ALL_LAYERS", "BlocksPanel", "CachePanel", "blocks_panel", "cache_panel"]
