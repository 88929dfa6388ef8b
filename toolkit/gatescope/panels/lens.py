"""The attention lens: tokens as text, and for the one that is looked at what it reads and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import torch
import traitlets
from torch import Tensor

from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.probes import AttentionRows
from gatescope.reading import prepare
from gatescope.taps import attached
from gatescope.views.style import Html, card, number, shade, table

MAX_TOKENS = 2000
_TOP = 5
_COLOURS = [shade(step / 63)[0] for step in range(64)]

#: text -> what a pass over it kept, and its token texts.
Measure = Callable[[str], tuple[AttentionRows, list[str]]]


class Lens(anywidget.AnyWidget):
    """The page's side: tokens, a map of layers and heads, and one row and one column of attention at a time.

    A page never holds T x T: it names ``token``, ``layer`` or ``head``, and ``reads`` and ``read_by`` (fp32, a number a
    token) come back, with ``answer`` counted up.
    """

    _esm = Path(__file__).parent / "lens.js"
    pieces = traitlets.List(traitlets.Unicode()).tag(sync=True)
    layers = traitlets.List(traitlets.Int()).tag(sync=True)
    heads = traitlets.Int().tag(sync=True)
    colours = traitlets.List(traitlets.Unicode(), _COLOURS).tag(sync=True)
    grid = traitlets.Bytes().tag(sync=True)
    token = traitlets.Int().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    head = traitlets.Int(-1).tag(sync=True)
    reads = traitlets.Bytes().tag(sync=True)
    read_by = traitlets.Bytes().tag(sync=True)
    answer = traitlets.Int().tag(sync=True)


class LensPanel(Panel):
    """Controls ``text``, ``layer``, ``head`` (-1: the mean of all) and ``token``. A new text runs the model; all else
    is computed from the queries and keys of that run, a row at a time.

    On the page, hovering a token chooses it, a click or Enter holds it, and arrow keys move.
    """

    slug = "lens"
    pictures = ("numbers",)
    layer: ipywidgets.SelectionSlider
    head: ipywidgets.SelectionSlider
    token: ipywidgets.BoundedIntText

    def __init__(self, measure: Measure, text: str) -> None:
        self._measure, self._measured = measure, ""
        self._rows, self._pieces = AttentionRows(), [""]
        wide, style = {"width": "auto"}, {"description_width": "110px"}

        def picker(words: str, options: list[tuple[str, int]]) -> ipywidgets.SelectionSlider:
            layout = {"width": "60%"}
            return ipywidgets.SelectionSlider(options=options, description=words, style=style, layout=layout)

        controls = {
            "text": ipywidgets.Textarea(
                text, description="Text", rows=2, continuous_update=False, layout=wide, style=style
            ),
            "layer": picker("Layer", [("0", 0)]),
            "head": picker("Head", [("mean of all", -1)]),
            "token": ipywidgets.BoundedIntText(0, 0, 0, description="Token", style=style),
        }
        super().__init__(controls)
        self.lens = Lens()
        self.lens.add_class("gs-lens-tokens")
        first = next(i for i, child in enumerate(self.widget.children) if child is self._pictures["numbers"].widget)
        self.widget.children = (*self.widget.children[:first], self.lens, *self.widget.children[first:])
        self.lens.observe(self._chosen, ["token", "layer", "head"])
        self.refresh()
        self._defaults = self.state

    def apply(self, **settings: Any) -> None:
        """As `Panel.apply`. A token is taken with the text it belongs to."""
        if settings.get("text", self._measured) != self._measured:
            self._held = True
            self.token.max = MAX_TOKENS
            self._held = False
        super().apply(**settings)

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The row and the column of the chosen token."""
        if state["text"] != self._measured:
            self._run(state["text"])
        layer, head, token = (self._controls[name].value for name in ("layer", "head", "token"))
        frame = self._frame(layer, None if head < 0 else head, token)
        with self.lens.hold_sync():
            self.lens.layer, self.lens.head, self.lens.token = layer, head, token
            self.lens.reads, self.lens.read_by = (_bytes(frame[name]) for name in ("reads", "read_by"))
            self.lens.answer += 1
        return {"numbers": Drawing(self._card(frame, layer, head, token), frame)}

    def _run(self, text: str) -> None:
        rows, pieces = self._measure(text)
        self._rows, self._pieces, self._measured = rows, pieces, text
        held, self._held = self._held, True
        try:
            layer, head = self.layer.value if self.lens.layers else None, self.head.value
            self.layer.options = [(str(each), each) for each in rows.layers]
            self.layer.value = layer if layer in rows.layers else rows.layers[len(rows.layers) // 2]
            self.head.options = [("mean of all", -1), *((str(each), each) for each in range(rows.heads))]
            self.head.value = head if head < rows.heads else -1
            self.token.max = len(pieces) - 1
        finally:
            self._held = held
        first = [rows.layer(layer).first[:, 1:].mean(1) for layer in rows.layers]
        grid = torch.nn.utils.rnn.pad_sequence(first, batch_first=True)
        self.lens.layers, self.lens.heads = list(rows.layers), rows.heads
        self.lens.grid, self.lens.pieces = _bytes(grid), pieces

    def _frame(self, layer: int, head: int | None, token: int) -> pd.DataFrame:
        reads, read_by = self._rows.reads(layer, token, head), self._rows.read_by(layer, token, head)
        columns = {"reads": reads.cpu().numpy(), "read_by": read_by.cpu().numpy()}
        return pd.DataFrame({"token": range(len(self._pieces)), "piece": self._pieces, **columns})

    def _card(self, frame: pd.DataFrame, layer: int, head: int, token: int) -> Html:
        about = self._rows.layer(layer)
        own = slice(None) if head < 0 else slice(head, head + 1)
        entropy, first = float(about.entropy[own, token].mean()), float(about.first[own, token].mean())
        seen = int(about.visible[token])
        most = f"of at most {number(float(np.log(seen)))} nats" if seen > 1 else "it sees one key alone"
        which = "mean of all heads" if head < 0 else f"head {head}"
        title = f"{frame['piece'][token]!r} at {token} gives {number(first)} of its attention to the first token"
        readers = int((frame["read_by"] > 0).sum())
        received = number(float(frame["read_by"].sum() / max(readers, 1)))
        notes = [
            f"Layer {layer}, {which}. Entropy {number(entropy)}, {most}",
            f"{readers} tokens can read it and give it {received} each on average",
        ]
        best = [_best(frame, name) for name in ("reads", "read_by")]
        rows = [[*one, *other] for one, other in zip_longest(*best, fillvalue=["", ""])]
        return card(title, notes, table(["reads most", "weight", "is read most by", "weight"], rows), "gs-lens-card")

    def _chosen(self, change: Any) -> None:
        control = self._controls[change["name"]]
        if control.value != change["new"]:
            self._guarded(lambda: self.apply(**{change["name"]: change["new"]}))


def _best(frame: pd.DataFrame, name: str) -> list[list[str]]:
    """The largest weights of a column that are not 0, as text."""
    top = frame[frame[name] > 0].nlargest(_TOP, name)
    return [[f"{row.piece!r} at {row.token}", number(getattr(row, name))] for row in top.itertuples()]


def attention_lens(
    pretrained: Any, text: str, *, measure: Measure | None = None, max_tokens: int = MAX_TOKENS
) -> LensPanel:
    """A lens on what a model attends to in whatever is typed.

    pretrained   has ``model`` and ``tokenizer``; an empty text or one of more than ``max_tokens`` tokens is refused in
                 the panel's error area
    measure      replaces the run: text -> (AttentionRows after one pass, the token texts)
    """

    def default(typed: str) -> tuple[AttentionRows, list[str]]:
        tokens = prepare(pretrained, typed, max_tokens)
        rows = AttentionRows()
        with torch.no_grad(), attached(pretrained.model, rows):
            pretrained.model(tokens)
        return rows, pretrained.tokenizer.pieces(tokens)

    return LensPanel(measure or default, text)


def _bytes(values: Any) -> bytes:
    values = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return np.ascontiguousarray(values, dtype=np.float32).tobytes()
