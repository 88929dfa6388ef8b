"""A prediction before the answer: a row of buttons that notes the learner's guess, and the comparison afterwards."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gatescope.errors import Refusal

from gatescope_lessons import journal

if TYPE_CHECKING:
    import ipywidgets


class Prediction:
    """A question, its options, and the guess (None until a button is pressed). Jupyter shows it as a panel.

    ``earlier`` is what was pressed in an earlier kernel. `reveal` compares the guess with what was measured.
    """

    def __init__(self, name: str, question: str, options: Sequence[str], earlier: str | None = None) -> None:
        import ipywidgets

        self.name, self.options = name, tuple(options)
        self.buttons = ipywidgets.ToggleButtons(options=self.options, value=earlier, style={"button_width": "auto"})
        self.buttons.add_class("gs-prediction")
        self._said = ipywidgets.HTML("Your earlier guess; another button changes it." if earlier else "")
        self.panel: ipywidgets.VBox = ipywidgets.VBox(
            [ipywidgets.HTML(f"<b>{html.escape(question)}</b>"), self.buttons, self._said]
        )
        self.buttons.observe(self._note, names="value")

    @property
    def value(self) -> str | None:
        """The guess."""
        return self.buttons.value

    def reveal(self, measured: str, because: str = "") -> ipywidgets.HTML:
        """What was measured beside what was guessed. Raises Refusal when ``measured`` is none of the options."""
        import ipywidgets

        if measured not in self.options:
            raise Refusal(f"prediction {self.name}", f"one of {self.options}", repr(measured), "reveal an option")
        if self.value is None:
            said = f"You made no prediction. Measured: <b>{html.escape(measured)}</b>."
        elif self.value == measured:
            said = f"You predicted <b>{html.escape(measured)}</b>, and so it is."
        else:
            said = f"You predicted {html.escape(self.value)}. Measured: <b>{html.escape(measured)}</b>."
        return ipywidgets.HTML(f"{said} {html.escape(because)}".strip()).add_class("gs-revealed")

    def _note(self, change: dict[str, object]) -> None:
        notice = journal.note("prediction", self.name, guess=change["new"])
        self._said.value = html.escape(notice) or "Noted."

    def _repr_mimebundle_(self, **kwargs: object) -> object:
        return self.panel._repr_mimebundle_(**kwargs)


def predict(name: str, question: str, options: Sequence[str], *, headless: str | None = None) -> Prediction:
    """Ask for a guess before the answer is seen.

    A guess in the learner's progress file stands. In a headless run (``$GATESCOPE_EDITION`` is set) ``headless``, by
    default the first option, is pressed at once.
    Raises Refusal for fewer than two options, a repeated one, or a ``headless`` that is none of them.
    """
    if len(options) < 2 or len(set(options)) < len(options):
        raise Refusal(f"prediction {name}", "two or more different options", repr(tuple(options)), "give real choices")
    pressed = options[0] if headless is None else headless
    if pressed not in options:
        raise Refusal(f"prediction {name}", f"headless in {tuple(options)}", repr(headless), "name an option")
    if not os.environ.get("GATESCOPE_EDITION"):
        return Prediction(name, question, options, _earlier(name, options))
    prediction = Prediction(name, question, options)
    prediction.buttons.value = pressed
    return prediction


def _earlier(name: str, options: Sequence[str]) -> str | None:
    """The last guess in the progress file that is still an option."""
    found = None
    for entry in journal.read(journal.journal_path()):
        if (entry.get("kind"), entry.get("name")) == ("prediction", name) and entry.get("guess") in options:
            found = str(entry["guess"])
    return found
