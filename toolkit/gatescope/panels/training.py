"""Training that can be watched, stopped and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from html import escape
from threading import Event, Thread
from time import monotonic
from typing import Any, ClassVar

import ipywidgets
import xarray as xr

from gatescope import views
from gatescope.errors import Refusal
from gatescope.panels.base import Panel
from gatescope.panels.keeping import Keeper
from gatescope.panels.picture import Drawing
from gatescope.train import Training
from gatescope.views.style import number

#: Name -> (variable it needs, its number in a record): what is drawn of the records made while training.
METRICS: dict[str, tuple[str, Callable[[xr.Dataset], float]]] = {
    "first-token attention, largest head": ("first_attention", lambda record: float(record.first_attention.max())),
    "gate score, mean": ("gate_mean", lambda record: float(record.gate_mean.mean())),
    "value drain, smallest": ("value_drain", lambda record: float(record.value_drain.min())),
    "active neurons, mean": ("activation_zeros", lambda record: 1 - float(record.activation_zeros.mean())),
    "normalised entropy, mean": ("entropy_normalised", lambda record: float(record.entropy_normalised.mean())),
}
_LOSSES = {"loss": "all tokens", "trigger_loss": "bound tokens"}


class TrainPanel(Panel):
    """Buttons Start (Resume after a stop) and Stop; control ``metric`` picks what is drawn below the loss.

    make_training   makes a `Training` or any iterable of `Progress` that goes on where it was left
    steps           length of the run, for the progress bar
    interval        seconds between redraws; more where drawing would take over a fifth of the time

    A `Training` without a folder is kept on disk, see `gatescope.panels.keeping`: after a restart of the kernel the
    same panel goes on from there, and says so. Reset begins anew.
    """

    slug = "train"
    pictures: ClassVar[tuple[str, ...]] = ("loss", "metric")

    def __init__(self, make_training: Callable[[], Any], steps: int | None = None, interval: float = 0.4) -> None:
        self._make, self._steps, self.interval = make_training, steps, interval
        self.training: Any = None
        self._keeper = Keeper(self.stop)
        self._iterator: Iterator[Any] | None = None
        self._thread: Thread | None = None
        self._stop = Event()
        self._history: list[dict[str, Any]] = []
        self._measured: list[dict[str, Any]] = []
        self.bar = ipywidgets.IntProgress(description="Steps", layout={"width": "40%"}).add_class("gs-train-bar")
        self.status = ipywidgets.HTML("not started", layout={"min_width": "300px"}).add_class("gs-train-status")
        self.start_button = self._button("Start", "start", self.start)
        self.stop_button = self._button("Stop", "stop", self.stop)
        self.stop_button.disabled = True
        self.kept = ipywidgets.HTML(layout={"width": "auto"}).add_class("gs-train-kept")
        extra = [self.start_button, self.stop_button, self.bar, self.status, self.kept]
        super().__init__(self._settings(), extra=extra)

    def _settings(self) -> dict[str, Any]:
        """The controls, for a subclass to replace together with `draw`."""
        return {"metric": ipywidgets.Dropdown(options=list(METRICS), description="Metric")}

    @property
    def running(self) -> bool:
        """Whether the background thread is training."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Train in a background thread, from the beginning or from where it was stopped."""
        if self.running:
            return
        self._thread = Thread(target=self._train, args=(None,), daemon=True, name="gatescope-train")
        self._thread.start()

    def stop(self, timeout: float | None = 30.0) -> None:
        """Finish the step under way and leave the loop; Start goes on from there."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def run_blocking(self, max_steps: int | None = None) -> None:
        """Train here and now, for at most ``max_steps`` further steps. Raises Refusal while the thread is training."""
        if self.running:
            raise Refusal("train", "a panel that is not training", "one that is", "press Stop first")
        self._train(max_steps)

    def reset(self) -> None:
        """Stop, forget the run, and go back to the first settings."""
        self.stop()
        self._keeper.forget()
        self.training = self._iterator = None
        self._history, self._measured = [], []
        self._tables.clear()
        for picture in self._pictures.values():
            picture.clear()
        self.bar.value, self.status.value, self.start_button.description = 0, "not started", "Start"
        self.kept.value = ""
        super().reset()

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The loss so far, and the metric where records hold it."""
        history, measured = list(self._history), list(self._measured)
        drawn = {}
        if history:
            record = _losses(history)
            drawn["loss"] = Drawing(views.curves(record, "loss"), views.curves_frame(record, "loss"))
        points = [point for point in measured if state["metric"] in point]
        if points:
            record = _dataset(points, {state["metric"]: "1"})
            name = state["metric"]
            drawn["metric"] = Drawing(views.curves(record, name), views.curves_frame(record, name))
        elif measured:
            raise Refusal("train", f"records with {METRICS[state['metric']][0]}", "none", "choose another metric")
        return drawn

    def _train(self, max_steps: int | None) -> None:
        self._stop.clear()
        self._buttons(training=True)
        failure, ended = None, False
        try:
            ended = self._loop(max_steps)
        except Exception as error:
            failure = error
            self._iterator = None
        self._keep(now=True)
        self.refresh()
        if failure is not None:
            self.fail(failure)
        self._buttons(training=False, ended=ended)

    def _loop(self, max_steps: int | None) -> bool:
        """Whether the run came to its end."""
        if self.training is None:
            self.training = self._keeper.take(self._make)
            self._recall()
            spec = getattr(self.training, "spec", None)
            self.bar.max = self._steps or getattr(spec, "steps", 0) or 1
        if self._iterator is None:
            self._iterator = iter(self.training)
        due, done = monotonic() + self.interval, 0
        while not self._stop.is_set() and done != max_steps:
            progress = next(self._iterator, None)
            if progress is None:
                self._iterator = None
                return True
            done += 1
            self._note(progress)
            self._keep()
            if monotonic() >= due:
                began = monotonic()
                self._show()
                due = monotonic() + max(self.interval, 4 * (monotonic() - began))
        return bool(self._history) and self._history[-1]["step"] >= self.bar.max

    def _note(self, progress: Any) -> None:
        self._append(progress.step, progress.loss, progress.trigger_loss)
        if progress.record is not None:
            self._measure(progress.step, progress.record)

    def _append(self, step: int, loss: float, marked: float | None) -> None:
        told = float("nan") if marked is None else marked
        self._history.append({"step": step, "loss": loss, "trigger_loss": told})

    def _measure(self, step: int, record: xr.Dataset) -> None:
        found = {name: read(record) for name, (needs, read) in METRICS.items() if needs in record}
        self._measured.append({"step": step, **found})

    def _recall(self) -> None:
        """What a run that goes on has behind it."""
        if not isinstance(self.training, Training) or not self.training.step:
            return
        for place, (loss, marked) in enumerate(zip(self.training.losses, self.training.trigger_losses, strict=True)):
            self._append(place + 1, loss, marked)
        with suppress(Refusal):  # nothing was measured
            record = self.training.record
            for step in record.step.values[record.step.values > 0]:
                self._measure(int(step), record.sel(step=step))

    def _keep(self, *, now: bool = False) -> None:
        self._keeper.save(now=now)
        if self.kept.value != (note := escape(self._keeper.note)):
            self.kept.value = note

    def _show(self) -> None:
        self.refresh()
        if self._history:
            last = self._history[-1]
            self.bar.value = last["step"]
            self.status.value = f"step {last['step']} of {self.bar.max}, loss {number(last['loss'])}"

    def _buttons(self, *, training: bool, ended: bool = False) -> None:
        if not training:
            self._show_status(ended)
        self.start_button.disabled, self.stop_button.disabled = training or ended, not training
        self.start_button.description = "Resume" if self._history else "Start"

    def _show_status(self, ended: bool) -> None:
        if not self._history:
            return
        last = self._history[-1]
        self.bar.value = last["step"]
        word = "finished" if ended else "stopped"
        self.status.value = f"{word} at step {last['step']} of {self.bar.max}, loss {number(last['loss'])}"


def train_live(make_training: Callable[[], Any], *, steps: int | None = None, interval: float = 0.4) -> TrainPanel:
    """A panel that trains what ``make_training`` makes, in the background, so that its Stop button always answers.

    steps      length of the run, where the training has no ``spec.steps``
    interval   seconds between redraws
    """
    return TrainPanel(make_training, steps, interval)


def _losses(history: list[dict[str, Any]]) -> xr.Dataset:
    data = _dataset(history, dict.fromkeys(_LOSSES, "nats"))
    marked = [name for name in _LOSSES if data[name].notnull().any()]
    joined = xr.concat([data[name] for name in marked], xr.IndexVariable("variant", [_LOSSES[n] for n in marked]))
    return joined.rename("loss").assign_attrs(units="nats", long_name="loss").to_dataset()


def _dataset(points: list[dict[str, Any]], units: Mapping[str, str]) -> xr.Dataset:
    steps = [point["step"] for point in points]
    variables = {
        name: ("step", [point[name] for point in points], {"units": unit, "long_name": name})
        for name, unit in units.items()
    }
    return xr.Dataset(variables, coords={"step": steps})
