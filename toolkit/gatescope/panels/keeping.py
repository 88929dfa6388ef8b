"""A live run that outlives its kernel: kept in a folder that is found again by what the run is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any, ClassVar

from safetensors.torch import save

from gatescope import specs
from gatescope.errors import Refusal
from gatescope.paths import cache_dir, locked
from gatescope.train import Training

#: Seconds of training that a killed kernel may lose.
KEEP_EVERY_S = 5.0
_DIGITS = 24
_ALONE = "A restart of the kernel begins this run anew."
_KEPT = "Kept on this disk: after a restart of the kernel, run this cell again and it goes on. Reset begins anew."
_TAKEN = "A newer panel goes on with this run; what is trained here now is not kept."
_ELSEWHERE = (
    "Another notebook has this very run open, so this one begins anew and is not kept. To go on with the other, shut "
    "its kernel down and run this cell again."
)


def live_dir() -> Path | None:
    """Where live runs are kept: ``$GATESCOPE_LIVE``, else ``live`` in the cache. None when the variable is empty."""
    named = os.environ.get("GATESCOPE_LIVE")
    if named is None:
        return cache_dir() / "live"
    return Path(named).expanduser().resolve() if named else None


class Keeper:
    """Keeps the run of one panel. ``note`` tells the learner what is kept, and what to do when nothing is.

    A run is another one when its model, initial weights, task, spec or probes are. Of two kernels that have the same
    run open one keeps it. Of two panels in one kernel, which a cell run twice makes, the newer one does: ``stop`` is
    called on the older one first.
    """

    _holders: ClassVar[dict[Path, Keeper]] = {}

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._training: Training | None = None
        self._folder: Path | None = None
        self._lock: IO[str] | None = None
        self._due = 0.0
        self._began = self._stands = ""

    @property
    def note(self) -> str:
        """How the run began, and whether it is kept."""
        return f"{self._began} {self._stands}".strip()

    def take(self, make: Callable[[], Any]) -> Any:
        """What ``make`` makes; a `Training` without a folder of its own goes on where it was kept."""
        made = make()
        self._began, self._stands = "", _ALONE
        place = live_dir() if isinstance(made, Training) and made.folder is None else None
        if place is None or (address := _address(made)) is None:
            return made
        try:
            self._claim(place / address)
        except OSError as error:
            self._stands = f"This run is not kept: {error}. {_ALONE}"
            return made
        if self._folder is None:
            self._stands = _ELSEWHERE
            return made
        self._stands = _KEPT
        try:
            resumed = Training(made.model, made.task, made.spec, made.probes, self._folder)
            self._began = f"Resumed at step {resumed.step}." if resumed.step else ""
        except (Refusal, KeyError) as error:
            self._empty()
            resumed = make()  # the weights of the first one may be half read
            self._began = f"What was kept of this run cannot be read ({error}), so it begins anew."
        resumed.folder = None  # saved from here alone: a full disk must not end the loop
        self._training, self._due = resumed, monotonic() + KEEP_EVERY_S
        return resumed

    def save(self, *, now: bool = False) -> None:
        """Write a checkpoint, between two steps, when one is due or ``now``. Never raises for a disk that refuses."""
        training, folder = self._training, self._folder
        if training is None or folder is None or not training.step or (not now and monotonic() < self._due):
            return
        training.folder = folder
        try:
            training.save()
        except (Refusal, OSError) as error:
            self._stands = f"This run is not kept: {error}. It goes on here meanwhile."
        else:
            self._stands = _KEPT
        finally:
            training.folder = None
            self._due = monotonic() + KEEP_EVERY_S

    def forget(self) -> None:
        """Begin anew: what was kept is removed."""
        if self._folder is not None:
            self._empty()
            self._release()
        self._training = None
        self._began = self._stands = ""

    def _claim(self, folder: Path) -> None:
        """Make ``folder`` ours, unless another process has it."""
        older = self._holders.get(folder)
        if older is not None and older is not self:
            older._stop()
            older._release()
            older._began, older._stands = "", _TAKEN
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
        if not locked(file):
            file.close()
            return
        self._folder, self._lock, self._holders[folder] = folder, file, self
        for torn in folder.rglob(".*.tmp*"):  # of a kernel that was killed while it wrote
            torn.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._folder is not None:
            self._holders.pop(self._folder, None)
        if self._lock is not None:
            self._lock.close()
        self._folder = self._lock = None

    def _empty(self) -> None:
        for path in self._folder.iterdir() if self._folder is not None else ():
            with suppress(OSError):
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()


def _address(training: Training) -> str | None:
    """A digest of all that makes a run this one. None where that cannot be told, or where nothing could be resumed."""
    parameters = dict(training.model.named_parameters())
    if not all(parameter.requires_grad for parameter in parameters.values()):
        return None
    task: Any = training.task
    try:
        about = {
            "config": training.model.config.to_dict(),
            "train": specs.to_dict(training.spec),
            "task": [type(task).__qualname__, specs.to_dict(task) if is_dataclass(task) else {}],
            "probes": [type(probe).__qualname__ for probe in training.probes],
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    except (AttributeError, TypeError):
        return None
    digest.update(save({name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}))
    return digest.hexdigest()[:_DIGITS]


__all__ = ["KEEP_EVERY_S", "Keeper", "live_dir"]
