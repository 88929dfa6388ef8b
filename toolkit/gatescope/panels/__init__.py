"""Panels: views with live controls. Moving a control recomputes from the model or the record.

    panel = panels.explore(pretrained, "The cat sat on the mat.")
    panel                               # the last line of a cell shows it
    panel.layer.value = 12              # moving a control in code does what a hand would
    panel.frame()                       # the numbers drawn now

Nothing that draws is imported before a panel is made.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

#: Panel -> (module of this package, what it is for).
PANELS: dict[str, tuple[str, str]] = {
    "explore": ("exploring", "sinks, entropy, massive activations and value drain of a text the learner types"),
    "attention_lens": ("lens", "what each token of a text reads and what reads it, head by head, a row at a time"),
    "intervene": ("intervening", "the loss with and without an intervention, beside its random controls"),
    "gate_blend": ("blending", "a trained gate, blended from off to what it learned"),
    "train_live": ("training", "a training run that can be watched, stopped and resumed"),
    "compare": ("comparing", "one metric over the variants of a record"),
    "study": ("studying", "the points of a study over its axes, every variant beside its control"),
    "kept_study": ("studying", "the same, of a study whose record lies in data/"),
    "compare_records": ("pairing", "two records on one variable, with their difference"),
}


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in PANELS:
        raise AttributeError(f"module 'gatescope.panels' has no attribute {name!r}; panels are {', '.join(PANELS)}")
    return getattr(import_module(f"gatescope.panels.{PANELS[name][0]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PANELS])
