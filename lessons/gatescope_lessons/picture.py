"""The README's picture, drawn from the measured records:

python -m gatescope_lessons.picture
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from gatescope import data, records
from gatescope.paths import atomic_write, repo_root
from gatescope.views.still import STYLE, Still
from gatescope.views.style import COMPARED, INK, SEQUENTIAL, STRONG
from matplotlib.axes import Axes

from gatescope_lessons.l02_one_gate_no_sink.lab import first
from gatescope_lessons.marked import marked, with_marked

PICTURE = "docs/see-what-gates-do.svg"
_NAMES = {
    "softmax": "softmax",
    "g2_element": "gate on the values",
    "off_by_one": "softmax off by one",
    "learned_sink": "learned sink logit",
    "g1_head": "gate after attention, a head",
    "g1_element": "gate after attention, a channel",
}


def draw() -> Still:
    """Left the sinks of a pretrained model, right what six variants of attention make of them."""
    pretrained, variants = (
        records.load(data.path(f"measured/{name}.nc")) for name in ("l01_where_attention_goes", "l02_one_gate_no_sink")
    )
    with mpl.rc_context(STYLE):
        figure = Still(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        share = _map(figure, left, pretrained)
        means = _strip(right, variants)
    figure.alt_text = (
        f"Left: first-token attention of SmolLM2-135M by layer and head, {share:.0%} of all attention on average. "
        f"Right: the largest sink of small models on one task, mean of {variants.sizes['seed']} seeds: "
        + ", ".join(f"{_NAMES[name]} {mean:.2f}" for name, mean in means.items())
        + "."
    )
    return figure


def _map(figure: Still, axes: Axes, record: xr.Dataset) -> float:
    attention = record.first_attention.mean("text")
    image = axes.imshow(attention, origin="lower", aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=1)
    share = float(attention.mean())
    axes.set_title(
        f"A pretrained model sends {share:.0%} of its\nattention to the first token", loc="left", weight="bold"
    )
    axes.set(xlabel="head", ylabel="layer", xticks=range(record.sizes["head"]))
    axes.grid(False)
    figure.colorbar(image, ax=axes, label=f"first-token attention, mean of {record.sizes['text']} texts")
    return share


def _strip(axes: Axes, record: xr.Dataset) -> dict[str, float]:
    means = {}
    for row, name in enumerate(reversed(_NAMES)):
        seeds = first(record, name)
        means[name] = float(np.mean(seeds))
        colour = STRONG if name.startswith("g1") else COMPARED
        axes.barh(row, means[name], color=colour, alpha=0.25, height=0.7)
        axes.plot(seeds, np.full(len(seeds), row), "o", color=colour, ms=6)
        axes.text(1.0, row, f"{means[name]:.2f}", color=INK, va="center", ha="right")
    axes.set_title("Small models: with a gate after attention, no sink", loc="left", weight="bold")
    axes.set_yticks(range(len(_NAMES)), list(reversed(_NAMES.values())))
    axes.set(xlim=(0, 1), xlabel=f"first-token attention, largest head ({record.sizes['seed']} seeds, small models)")
    return dict(reversed(means.items()))


def block(figure: Still) -> str:
    """The README's lines for the picture."""
    return f'<img src="{PICTURE}" alt="{escape(figure.alt_text)}" width="100%">'


def problems(readme: Path | None = None) -> list[str]:
    """What of the picture is out of step with the records."""
    readme, figure = readme or repo_root() / "README.md", draw()
    again = "run `python -m gatescope_lessons.picture`"
    found = [] if (readme.parent / PICTURE).is_file() else [f"{PICTURE}: missing; {again}"]
    if marked(readme, "picture") != block(figure):
        found.append(f"{readme.name}: its picture says other numbers than the records; {again}")
    return found


def main() -> None:
    """Draw the picture and put it into the README."""
    figure, readme = draw(), repo_root() / "README.md"
    for path, content in (
        (repo_root() / PICTURE, figure.svg()),
        (readme, with_marked(readme, "picture", block(figure)).encode()),
    ):
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    print(figure.alt_text)


if __name__ == "__main__":
    main()
