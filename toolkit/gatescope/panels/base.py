"""What all panels share: controls with names, one way to recompute, and errors that stay inside the panel."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from threading import RLock
from typing import Any, ClassVar

import ipywidgets
import pandas as pd
from traitlets import TraitError

from gatescope.errors import Refusal
from gatescope.panels.picture import Drawing, Picture

Drawings = dict[str, Drawing]
_WIDE = {"width": "auto"}


class Panel:
    """Controls above pictures. A subclass says what to draw for a state; the rest is here.

    slug       short name; the control ``layer`` of the panel ``explore`` has the css class gs-explore-layer
    pictures   names of what `draw` returns, in the order they stand on the page

    Every control is an attribute. A change is drawn before the assignment returns; while one is drawn, ipywidgets keeps
    the last value of a dragged slider in the browser and sends it afterwards. An exception while drawing becomes a
    message in the panel, and the pictures stay.
    """

    slug: ClassVar[str]
    pictures: ClassVar[tuple[str, ...]]

    def __init__(self, controls: Mapping[str, Any], extra: Sequence[ipywidgets.Widget] = ()) -> None:
        self._controls = dict(controls)
        self._tables: dict[str, pd.DataFrame] = {}
        self._lock, self._held = RLock(), False
        for name, control in self._controls.items():
            setattr(self, name, control.add_class(f"gs-{self.slug}-{name}"))
            control.observe(self._changed, "value")
        self._defaults = self.state
        self.reset_button = self._button("Reset", "reset", self.reset)
        self.busy, self.error = ipywidgets.HTML(), ipywidgets.HTML(layout=_WIDE)
        self.code_area = ipywidgets.Textarea(disabled=True, rows=2, layout=_WIDE)
        for name, widget in (("busy", self.busy), ("error", self.error), ("code", self.code_area)):
            widget.add_class(f"gs-{self.slug}-{name}")
        self._pictures = {name: Picture(f"gs-{self.slug}-{name.replace('_', '-')}") for name in self.pictures}
        code = ipywidgets.Accordion([self.code_area], titles=("Copy these settings as code",), selected_index=None)
        row = ipywidgets.HBox(
            [*extra, self.reset_button, self.busy], layout={"align_items": "center", "flex_flow": "row wrap"}
        )
        shown = [picture.widget for picture in self._pictures.values()]
        self.widget = ipywidgets.VBox([*self._controls.values(), row, self.error, *shown, code], layout=_WIDE)
        self.widget.add_class(f"gs-{self.slug}")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    def draw(self, state: Mapping[str, Any]) -> Drawings | Iterator[Drawings]:
        """Pictures for ``state``, by name; those left out stay as they are. What takes long may yield pictures of what
        is known so far, and better ones as more becomes known. May raise anything."""
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Any]:
        """The settings, as plain values."""
        return {name: control.value for name, control in self._controls.items()}

    @property
    def code(self) -> str:
        """A line of Python that gives a panel named ``panel`` these settings."""
        return f"panel.apply({', '.join(f'{name}={value!r}' for name, value in self.state.items())})"

    def apply(self, **settings: Any) -> None:
        """Change several settings and redraw once. Raises Refusal for an unknown setting or a value it cannot take;
        the settings are then as before."""
        unknown = sorted(set(settings) - set(self._controls))
        if unknown:
            raise Refusal(self.slug, f"settings of {', '.join(self._controls)}", ", ".join(unknown), "check the name")
        before, self._held = self.state, True
        try:
            for name, value in settings.items():
                self._set(name, value)
        except Refusal:
            for name, value in before.items():
                self._controls[name].value = value
            raise
        finally:
            self._held = False
        self.refresh()

    def reset(self) -> None:
        """Back to the settings the panel was made with."""
        self.apply(**self._defaults)

    def frame(self, picture: str | None = None) -> pd.DataFrame:
        """The numbers drawn now in ``picture``, or in the first one.

        Raises Refusal for an unknown picture, or when nothing is drawn yet.
        """
        name = self.pictures[0] if picture is None else picture
        if name not in self.pictures:
            raise Refusal(self.slug, f"a picture of {', '.join(self.pictures)}", repr(picture), "choose one of them")
        if name not in self._tables:
            raise Refusal(self.slug, f"a drawn {name}", "nothing drawn yet", self.message or "change a setting")
        return self._tables[name].copy()

    @property
    def message(self) -> str:
        """The error shown now, or an empty string."""
        return self._message

    _message = ""

    def refresh(self) -> None:
        """Draw the present settings now."""
        with self._lock, _uncollected():
            self._working(True)
            try:
                drawn = self.draw(self.state)
                for drawings in (drawn,) if isinstance(drawn, dict) else drawn:
                    self._put(drawings)
            except Exception as error:
                self.fail(error)
            else:
                self.fail(None)
            finally:
                self.code_area.value = self.code
                self._working(False)

    def _put(self, drawings: Drawings) -> None:
        for name, drawing in drawings.items():
            self._pictures[name].show(drawing.figure)
            self._tables[name] = drawing.frame

    def fail(self, error: Exception | None) -> None:
        """Show ``error`` in the panel, or clear what is shown."""
        self._message = "" if error is None else _words(error)
        kept = ". The pictures still show the last settings that worked." if self._tables else ""
        self.error.value = (
            f'<div role="alert" style="color:#7A1F00;background:#FFF1EA;border-left:4px solid #D55E00;padding:8px 12px;'
            f'line-height:1.4">{escape(self._message + kept)}</div>'
            if self._message
            else ""
        )

    def _working(self, on: bool) -> None:
        self.busy.value = '<span role="status" style="margin-left:8px">computing …</span>' if on else ""

    def _button(self, label: str, name: str, action: Any) -> ipywidgets.Button:
        wide = {"width": "auto", "min_width": "148px"}
        button = ipywidgets.Button(description=label, layout=wide).add_class(f"gs-{self.slug}-{name}")
        button.on_click(lambda _: self._guarded(action))
        return button

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self.fail(error)

    def _set(self, name: str, value: Any) -> None:
        control = self._controls[name]
        try:
            control.value = value
        except (TraitError, ValueError, TypeError) as error:
            raise Refusal(self.slug, f"a {name} that its control can take", repr(value), str(error)) from error
        if control.value != value:
            raise Refusal(self.slug, f"a {name} that its control can take", repr(value), f"nearest is {control.value}")

    def _changed(self, _: Any) -> None:
        if not self._held:
            self.refresh()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Python's collector waits: with torch loaded, its walk over all objects takes longer than most drawings."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
