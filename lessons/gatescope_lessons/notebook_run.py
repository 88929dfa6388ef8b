"""Run one notebook under limits and say what happened: the cell, its first line, the traceback, the exercises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

import nbformat
from gatescope.errors import Refusal
from nbformat import NotebookNode

from gatescope_lessons import journal
from gatescope_lessons.editions import parameter_names
from gatescope_lessons.exercises import Status
from gatescope_lessons.lesson_kit import Edition

#: What every check of an edition must say in a headless run, where it can run at all.
EXPECTED: dict[Edition, Status] = {"exercise": "not attempted", "solution": "passed"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PAPERMILL_CELLS = {"papermill-error-cell-tag", "injected-parameters"}


@dataclass(frozen=True, slots=True)
class Job:
    """A notebook to run: where, with which parameters, within which limits (seconds).

    widgets  what becomes of the state of widgets, some MB: "drop", or "keep" in the executed notebook
    """

    name: str
    edition: Edition
    notebook: Path
    folder: Path
    parameters: Mapping[str, object]
    cell_limit: int
    notebook_limit: int
    threads: int = 1
    progress: bool = False
    widgets: Literal["drop", "keep"] = "drop"

    @property
    def output(self) -> Path:
        """The executed notebook."""
        return self.folder / self.notebook.name


@dataclass(frozen=True, slots=True)
class Report:
    """How a job ended: seconds and, when it failed, everything a person needs to see why."""

    job: Job
    seconds: float
    failure: str = ""
    exercises: Mapping[str, str] = field(default_factory=dict)


def refuse_unknown_parameters(notebook: Path, parameters: Mapping[str, object]) -> None:
    """Raises Refusal for a parameter that the notebook's parameters cell does not assign."""
    known = parameter_names(nbformat.read(notebook, as_version=4))
    if unknown := sorted(set(parameters) - known):
        wanted = f"parameters among {', '.join(sorted(known)) or 'none'}"
        raise Refusal(f"run {notebook.name}", wanted, ", ".join(unknown), "correct the name")


def run_job(job: Job, stop: Event | None = None) -> Report:
    """Execute a job in a process of its own with a fresh kernel, and end both at the limit or when ``stop`` is set.

    Raises Refusal for an unknown parameter; everything else that goes wrong is told in the report.
    """
    refuse_unknown_parameters(job.notebook, job.parameters)
    job.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    ended = _execute(job, stop or Event())
    seconds = time.monotonic() - started
    executed = nbformat.read(job.output, as_version=4) if job.output.is_file() else nbformat.v4.new_notebook()
    outcomes = {
        str(note["name"]): str(note["status"])
        for note in journal.read(job.folder / "progress.jsonl")
        if note["kind"] == "exercise"
    }
    failure = _crash(job, ended, executed) or _widget_error(executed) or exercise_failure(job, outcomes)
    if job.widgets == "drop":
        _strip_widget_state(job.output, executed)
    return Report(job, seconds, failure, outcomes)


def _execute(job: Job, stop: Event) -> str:
    """Run the executor; returns the empty string or why it was ended."""
    (job.folder / "job.json").write_text(
        json.dumps(
            {
                "input": str(job.notebook.resolve()),
                "output": str(job.output.resolve()),
                "parameters": dict(job.parameters),
                "cwd": str(job.folder.resolve()),
                "cell_limit": job.cell_limit,
                "progress": job.progress,
                "result": str((job.folder / "result.json").resolve()),
            }
        ),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "gatescope_lessons.executor", str(job.folder / "job.json")]
    with (job.folder / "papermill.log").open("w", encoding="utf-8") as log:
        errors = None if job.progress else subprocess.STDOUT
        process = subprocess.Popen(command, env=_environment(job), stdout=log, stderr=errors)
        deadline = time.monotonic() + job.notebook_limit
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                    return ""
                if stop.is_set():
                    return "stopped"
                if time.monotonic() > deadline:
                    return f"ended at the limit of {job.notebook_limit} s for a notebook"
        finally:
            _end(process)


def _environment(job: Job) -> dict[str, str]:
    # An exported MPLBACKEND keeps Output widgets empty.
    inherited = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    folder = job.folder.resolve()
    return inherited | {
        "GATESCOPE_EDITION": job.edition,
        "GATESCOPE_RUN_DIR": str(folder),
        "GATESCOPE_PROGRESS": str(folder / "progress.jsonl"),
        "GATESCOPE_LIVE": "",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": str(job.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the executor and its kernel, which has a session of its own."""
    if process.poll() is not None:
        return
    import psutil

    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    # A kill takes effect a moment later on a busy machine; one that nobody reaps stays listed, hence the limit.
    psutil.wait_procs(family[1:], timeout=2)


def _crash(job: Job, ended: str, executed: NotebookNode) -> str:
    result = job.folder / "result.json"
    told = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {"error": "", "message": ""}
    if not ended and result.is_file() and not told["error"]:
        return ""
    position, cell, trace = _failing_cell(executed)
    what = ended or told["error"] or "the process died"
    if cell is None:
        log = (job.folder / "papermill.log").read_text(encoding="utf-8", errors="replace")
        return f"{what} before the first cell\n{_plain(told['message'] or log).strip()}"
    first_line = next((line for line in cell.source.splitlines() if line.strip()), "")
    detail = trace or ("" if ended else _plain(told["message"]))
    return f"cell {position}: {what}\n    {first_line}\n{detail}".rstrip()


def _failing_cell(executed: NotebookNode) -> tuple[int, NotebookNode | None, str]:
    """The cell that raised or started last: its place in the notebook as the learner sees it, and its traceback."""
    own = [cell for cell in executed.cells if not _PAPERMILL_CELLS & set(cell.metadata.get("tags", []))]
    for position, cell in enumerate(own, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return position, cell, _plain("\n".join(output.traceback))
    started = [
        (position, cell)
        for position, cell in enumerate(own, start=1)
        if cell.metadata.get("papermill", {}).get("start_time")
    ]
    return (*started[-1], "") if started else (0, None, "")


def _widget_error(executed: NotebookNode) -> str:
    """An exception that an Output widget caught: the notebook ran on, and the learner would see a traceback."""
    views = executed.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    for model in views.get("state", {}).values():
        for output in model.get("state", {}).get("outputs", []) or []:
            if output.get("output_type") == "error":
                return "an Output widget shows an exception\n" + _plain("\n".join(output["traceback"]))
    return ""


def exercise_failure(job: Job, outcomes: Mapping[str, str]) -> str:
    """What the checks said other than their edition expects, or the empty string.

    ``outcomes`` is the last status of each exercise; there must be one for every code cell tagged with the edition.
    """
    wanted = EXPECTED[job.edition]
    notebook = nbformat.read(job.notebook, as_version=4)
    cells = sum(cell.cell_type == "code" and job.edition in cell.metadata.get("tags", []) for cell in notebook.cells)
    fine = (wanted, "cannot run here")
    wrong = [f"  {name}: {status}" for name, status in outcomes.items() if status not in fine]
    if wrong:
        return f"every check of the {job.edition} edition must say {wanted!r}\n" + "\n".join(wrong)
    if len(outcomes) < cells:
        return (
            f"{cells} cells tagged {job.edition}, but only {len(outcomes)} checks ran; call a check after each exercise"
        )
    return ""


def _strip_widget_state(path: Path, executed: NotebookNode) -> None:
    if executed.metadata.pop("widgets", None) is not None:
        nbformat.write(executed, path)


def _plain(text: str) -> str:
    return _ANSI.sub("", text)
