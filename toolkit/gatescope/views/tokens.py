"""Text with a number on every token."""

from __future__ import annotations

from html import escape

import pandas as pd
import xarray as xr

from gatescope.views.select import context, extreme, long_frame, pieces, quantity, variable
from gatescope.views.style import NOTE_SIZE, SOFT_INK, Html, card, number, shade


def token_strip_frame(ds: xr.Dataset, name: str) -> pd.DataFrame:
    """Columns token, piece, and the variable. Raises Refusal without the variable over ``token`` alone."""
    frame = long_frame(variable(ds, name, "token_strip", ("token",)), name)
    frame.insert(1, "piece", pieces(ds, frame["token"].tolist()))
    return frame


def token_strip(ds: xr.Dataset, name: str) -> Html:
    """Tokens in reading order, coloured by a number each; the number shows on hovering. Token text is escaped.

    Values of both signs get a diverging scale around 0, others a sequential one from the least to the largest.
    Raises Refusal without the variable over ``token`` alone.
    """
    frame = token_strip_frame(ds, name)
    low, high = frame[name].min(), frame[name].max()
    diverging = bool(low < 0 < high)
    if diverging:
        high = max(high, -low)
        low = -high
    what = quantity(ds[name])
    value, where = extreme(frame, name)
    title = f"{what}: mean {number(frame[name].mean())}, largest {value} ({where})"
    spans = "<wbr>".join(_span(row, getattr(row, name), low, high, diverging) for row in frame.itertuples())
    scale = "".join(
        f'<span style="background:{shade(step / 10, diverging=diverging)[0]};padding:0 8px">&nbsp;</span>'
        for step in range(11)
    )
    body = (
        f'<div style="line-height:2;white-space:pre-wrap">{spans}</div>'
        f'<div style="font-size:{NOTE_SIZE}px;margin-top:6px">{number(low)} {scale} {number(high)}</div>'
    )
    return card(title, context(ds, name), body, "gs-token-strip")


def _span(row, value: float, low: float, high: float, diverging: bool) -> str:  # type: ignore[no-untyped-def]
    text = escape(row.piece) or f"[{row.token}]"
    tip = f"position {row.token}: {number(value)}"
    if value != value:
        return f'<span title="{tip}" style="border-bottom:2px dotted {SOFT_INK}">{text}</span>'
    room = "padding:2px 0" if len(row.piece) > 1 else "padding:2px 4px;margin-right:1px"
    paper, ink = shade((value - low) / (high - low) if high > low else 0.5, diverging=diverging)
    return f'<span title="{tip}" style="background:{paper};color:{ink};{room}">{text}</span>'
