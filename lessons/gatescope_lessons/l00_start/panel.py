"""The panel of the start page: one row of attention, a score and a gate to turn."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import COMPARED, NOTE_SIZE, SOFT_INK, STRONG, card, number

from gatescope_lessons.l00_start.lab import read_row


class RowPanel(Panel):
    """Controls ``first`` (score of the first token) and ``gate`` (logit of the gate)."""

    slug = "row"
    pictures = ("numbers",)

    def __init__(self, **settings: Any) -> None:
        def slider(value: float, low: float, high: float, words: str) -> ipywidgets.FloatSlider:
            style, layout = {"description_width": "170px"}, {"width": "70%"}
            return ipywidgets.FloatSlider(
                value, min=low, max=high, step=0.5, description=words, style=style, layout=layout
            )

        super().__init__(
            {
                "first": slider(0.0, -4.0, 8.0, "Score of the first token"),
                "gate": slider(6.0, -6.0, 6.0, "Gate (logit)"),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The row, a bar a token."""
        frame = read_row(**state)
        total, first = float(frame["read"].sum()), float(frame["weight"][0])
        title = f"The weights sum to {number(float(frame['weight'].sum()))}; what is read sums to {number(total)}"
        bars = "".join(_bar(row.token, row.weight, row.read) for row in frame.itertuples())
        note = f"First token: {number(first)} of the weight. Pale: weights of softmax; dark: what passes the gate"
        body = f'<div style="display:grid;grid-template-columns:4em 1fr 5em 5em;gap:4px 12px">{_HEAD}{bars}</div>'
        return {"numbers": Drawing(card(title, [note], body, "gs-row-card"), frame)}


_HEAD = "".join(
    f'<div style="color:{SOFT_INK};font-size:{NOTE_SIZE}px;text-align:{side}">{text}</div>'
    for text, side in (("token", "left"), ("", "left"), ("weight", "right"), ("read", "right"))
)


def _bar(token: str, weight: float, read: float) -> str:
    def part(share: float, colour: str, opacity: float) -> str:
        return (
            f'<div style="position:absolute;height:100%;width:{100 * share:.2f}%;background:{colour};'
            f'opacity:{opacity}"></div>'
        )

    bar = part(weight, COMPARED, 0.3) + part(read, STRONG, 1.0)
    number_ = '<div style="text-align:right">{}</div>'
    return (
        f'<code>{escape(token)}</code><div style="position:relative;height:1.2em">{bar}</div>'
        f"{number_.format(number(weight))}{number_.format(number(read))}"
    )


def row_panel(**settings: Any) -> RowPanel:
    """A panel on one row of attention, opened at ``settings`` of its controls."""
    return RowPanel(**settings)


__all__ = ["RowPanel", "row_panel"]
