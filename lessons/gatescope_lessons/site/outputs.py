"""Outputs of an executed cell as HTML, widgets as they stood when the notebook ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from gatescope.errors import Refusal

from gatescope_lessons.site.markdown import readable

_VIEW = "application/vnd.jupyter.widget-view+json"
_PLOTLY = "application/vnd.plotly.v1+json"
#: Widgets that only do something where a kernel runs.
_DEAD = frozenset({"ButtonModel", "IntProgressModel", "FloatProgressModel"})
_BOXES = frozenset({"VBoxModel", "HBoxModel", "BoxModel", "GridBoxModel"})
_CHOICES = frozenset(
    {"DropdownModel", "ToggleButtonsModel", "SelectionSliderModel", "RadioButtonsModel", "SelectModel"}
)
_VALUES = frozenset(
    {
        "BoundedFloatTextModel",
        "BoundedIntTextModel",
        "CheckboxModel",
        "FloatLogSliderModel",
        "FloatSliderModel",
        "FloatTextModel",
        "IntSliderModel",
        "IntTextModel",
        "TextModel",
        "TextareaModel",
    }
)


class Widgets:
    """The widgets of one notebook, by model id, as its state was saved."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._models = state
        self.plots = 0

    def html(self, output: Mapping[str, Any]) -> str:
        """One output: the richest kind of it that a page can show.

        Raises Refusal for an error: a page shows no traceback.
        """
        kind = output["output_type"]
        if kind == "stream":
            return f'<pre class="stream">{escape(_text(output["text"]))}</pre>'
        if kind == "error":
            got = f"{output['ename']}: {output['evalue']}"
            raise Refusal("site", "a notebook that ran to its end", got, "mend the lesson; `gatescope run` shows where")
        data = output["data"]
        if _VIEW in data:
            return self.widget(data[_VIEW]["model_id"])
        if _PLOTLY in data:
            return self._plot(data[_PLOTLY])
        if "text/html" in data:
            return f'<div class="html">{readable(_text(data["text/html"]))}</div>'
        if "image/png" in data:
            return _image("png", _text(data["image/png"]), "")
        return f"<pre>{escape(_text(data.get('text/plain', '')))}</pre>"

    def widget(self, model_id: str) -> str:
        """A widget and all inside it. What has no still form is left out."""
        model = self._models.get(model_id.removeprefix("IPY_MODEL_"))
        if model is None or model["model_name"] in _DEAD:
            return ""
        name, state = model["model_name"], model["state"]
        if self._hidden(state):
            return ""
        inner = "".join(self._parts(name, state, model))
        classes = " ".join(state.get("_dom_classes", ()))
        return f'<div class="widget {escape(classes)}">{inner}</div>' if inner else ""

    def _parts(self, name: str, state: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
        if name in _BOXES:
            yield from (self.widget(child) for child in state.get("children", ()))
        elif name in {"HTMLModel", "HTMLMathModel"}:
            yield readable(state.get("value", ""))
        elif name == "LabelModel":
            yield escape(str(state.get("value", "")))
        elif name in _CHOICES:
            yield _choice(state)
        elif name in _VALUES:
            yield _control(state, str(state.get("value", "")))
        elif name == "OutputModel":
            yield from (self.html(output) for output in state.get("outputs", ()))
        elif name == "ImageModel":
            yield from _picture(state, model.get("buffers", ()))
        elif "figure" in state:
            yield self._plot(json.loads(state["figure"]))
        elif "pieces" in state:
            yield f'<p class="tokens">{escape(" ".join(state["pieces"]))}</p>'

    def _hidden(self, state: Mapping[str, Any]) -> bool:
        layout = self._models.get(str(state.get("layout", "")).removeprefix("IPY_MODEL_"), {}).get("state", {})
        return layout.get("display") == "none" or layout.get("visibility") == "hidden"

    def _plot(self, figure: Mapping[str, Any]) -> str:
        self.plots += 1
        place, layout = f"plot-{self.plots}", figure.get("layout", {})
        alt = (layout.get("meta") or {}).get("alt_text", "")
        # "</" would end the script, whatever string it stands in.
        parts = (json.dumps(part).replace("</", "<\\/") for part in (place, figure["data"], layout))
        return (
            f'<div class="plot" id="{place}" role="figure" aria-label="{escape(alt)}" '
            f'style="min-height:{int(layout.get("height") or 420)}px"></div>'
            f"<script>Plotly.newPlot({', '.join(parts)}, {{displaylogo: false, responsive: true}})</script>"
        )


def _control(state: Mapping[str, Any], value: str) -> str:
    return f'<span class="control">{escape(str(state.get("description", "")))} <b>{escape(value)}</b></span>'


def _choice(state: Mapping[str, Any]) -> str:
    labels, index = [str(label) for label in state.get("_options_labels", ())], state.get("index")
    chosen = labels[index] if index is not None and index < len(labels) else "nothing chosen"
    others = f' <span class="soft">of: {escape(", ".join(labels))}</span>' if 1 < len(labels) <= 8 else ""
    return _control(state, chosen) + others


def _picture(state: Mapping[str, Any], buffers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for buffer in buffers:
        if buffer.get("path") == ["value"]:
            yield _image(str(state.get("format", "png")), buffer["data"], str(state.get("alt", "")))


def _image(kind: str, data: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/{escape(kind)};base64,{"".join(data.split())}">'


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "".join(value)
