"""One look for all figures: colours, sizes, and the words that go with a picture. Imports nothing that draws."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from gatescope.errors import Refusal

#: Colour map of quantities that have no sign; readable with every kind of colour blindness and in grey.
SEQUENTIAL = "cividis"
#: Colours of categories (Okabe and Ito 2008).
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
#: What stands out, what is compared with it, and what is only there for scale.
STRONG, COMPARED, FAINT = "#D55E00", "#0072B2", "#8C8C8C"
#: Every picture brings its own paper, so it reads the same in a light and in a dark theme.
INK, SOFT_INK, PAPER, RULE = "#1A1A1A", "#4D4D4D", "#FFFFFF", "#D9D9D9"
#: Sizes in pixels, chosen for a window of 1280 x 800.
TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 18, 14, 12
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"

_CIVIDIS = (
    "#00224E",
    "#123570",
    "#3B496C",
    "#575D6D",
    "#707173",
    "#8A8678",
    "#A59C74",
    "#C3B369",
    "#E1CC55",
    "#FEE838",
)
#: Below, at and above the middle of a quantity that has a sign.
DIVERGING = ("#0072B2", "#FFFFFF", "#D55E00")


@dataclass(frozen=True)
class Html:
    """A view made of text: a table or a strip of tokens. Jupyter shows it; ``html`` is self-contained and escaped."""

    html: str
    alt_text: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> None:
        """Write a page that opens offline."""
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(self.alt_text)}</title>{self.html}'
        Path(path).write_text(page, encoding="utf-8")


def alt_text(figure: Any) -> str:
    """The finding of a figure in words, with its numbers. Raises Refusal for something that no view made."""
    text = getattr(figure, "alt_text", None)
    if text is None:
        layout = getattr(figure, "layout", None)
        meta = getattr(layout, "meta", None) or {}
        text = meta.get("alt_text")
    if not text:
        raise Refusal(
            "alt_text", "a figure made by a view", type(figure).__name__, "call it on what views.<name> returns"
        )
    return text


def card(title: str, notes: Sequence[str], body: str, css_class: str) -> Html:
    """A view made of text: title and notes (escaped here) above ``body``, which is HTML that is safe already."""
    small = "".join(f"<div>{escape(note)}</div>" for note in notes)
    html = (
        f'<div class="{css_class}" role="figure" aria-label="{escape(title)}" style="color:{INK};background:{PAPER};'
        f'font:{LABEL_SIZE}px {escape(FONT)};padding:12px;overflow-x:auto"><b>{escape(title)}</b>'
        f'<div style="color:{SOFT_INK};font-size:{NOTE_SIZE}px;margin:4px 0 8px">{small}</div>{body}</div>'
    )
    return Html(html, ". ".join([title, *notes]))


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, cells: Literal["numbers", "prose"] = "numbers"
) -> str:
    """An HTML table; every text is escaped. Numbers stand to the right and never wrap, prose to the left and does."""
    side = "text-align:right;white-space:pre" if cells == "numbers" else "text-align:left"
    cell = f"padding:3px 16px 3px 0;border-bottom:1px solid {RULE};{side};color:{INK}"

    def row(tag: str, texts: Sequence[str]) -> str:
        # A head that says nothing is none.
        tags = ((tag if text else "td", text) for text in texts)
        shown = (f'<{one} style="{cell};background:{PAPER}">{escape(text)}</{one}>' for one, text in tags)
        return f"<tr>{''.join(shown)}</tr>"

    body = row("th", heads) + "".join(row("td", texts) for texts in rows)
    return f'<table style="border-collapse:collapse">{body}</table>'


def category(index: int) -> str:
    """Colour of the ``index``-th category; the colours repeat after eight."""
    return CATEGORIES[index % len(CATEGORIES)]


def shade(share: float, *, diverging: bool = False) -> tuple[str, str]:
    """Background and text colour for a value in [0, 1] (0.5 is the middle of a diverging scale)."""
    stops = [_rgb(stop) for stop in (DIVERGING if diverging else _CIVIDIS)]
    position = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(bisect_right(range(len(stops)), position) - 1, len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (position - low)) for a, b in zip(stops[low], stops[low + 1], strict=True))
    weights = zip((0.2126, 0.7152, 0.0722), (red, green, blue), strict=True)
    luminance = sum(weight * (channel / 255) ** 2.2 for weight, channel in weights)
    return f"#{red:02X}{green:02X}{blue:02X}", "#000000" if luminance > 0.18 else "#FFFFFF"


def cell(value: Any) -> str:
    """A value for a table: `number` of a float, anything else as it is."""
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """A number for a sentence: three or four figures, thousands grouped, NaN spelled out."""
    if value != value:
        return "NaN"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.4g}"
    return f"{value:.3f}" if size >= 0.01 or size == 0 else f"{value:.2g}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
