"""`gatescope run`: lessons through papermill, both editions, under limits; --profile full measures their claims."""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Literal, get_args

from gatescope import records
from gatescope.errors import Refusal
from gatescope.paths import repo_root
from gatescope_kernels.command import Command

from gatescope_lessons import build, claims_ledger
from gatescope_lessons.lesson_kit import EDITIONS, Edition, Shelf, own_shelf
from gatescope_lessons.measure import measure, measured
from gatescope_lessons.notebook_run import Job, Report, refuse_unknown_parameters, run_job

Profile = Literal["quick", "full", "gpu"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a cell and a notebook may take, and what a notebook should take."""

    cell: int
    notebook: int
    budget: int


LIMITS: dict[Profile, Limits] = {
    "quick": Limits(cell=120, notebook=300, budget=60),
    "full": Limits(cell=3600, notebook=7200, budget=7200),
    "gpu": Limits(cell=600, notebook=1800, budget=1800),
}


def plan(
    shelf: Shelf,
    folders: Sequence[str],
    profile: Profile,
    editions: Sequence[Edition],
    runs: Path,
    *,
    parameters: Mapping[str, object] | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    widgets: Literal["drop", "keep"] = "drop",
) -> list[Job]:
    """The jobs of a run, each with a folder of its own under ``runs``; ``widgets`` as `Job` has it.

    Raises Refusal for a parameter that a notebook does not have, before anything runs.
    """
    limits = limits or LIMITS[profile]
    given = {**(parameters or {}), "profile": profile}
    jobs = [
        Job(
            name=folder,
            edition=edition,
            notebook=shelf.notebook(folder, edition),
            folder=runs / folder / edition,
            parameters=given,
            cell_limit=limits.cell,
            notebook_limit=limits.notebook,
            threads=max(1, (os.cpu_count() or 1) // workers),
            progress=workers == 1 and sys.stderr.isatty(),
            widgets=widgets,
        )
        for folder in folders
        for edition in editions
    ]
    for job in jobs:
        refuse_unknown_parameters(job.notebook, job.parameters)
    return jobs


def execute(jobs: Sequence[Job], workers: int = 1) -> Iterator[Report]:
    """The reports as the jobs end. Leaving the iterator early, or an interrupt, ends what still runs."""
    stop = Event()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(run_job, job, stop) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def run(jobs: Sequence[Job], runs: Path, workers: int = 1, say: Callable[[str], None] = print) -> list[Report]:
    """Run jobs, tell how each ended, and leave ``summary.json`` in ``runs``."""
    runs.mkdir(parents=True, exist_ok=True)
    reports = []
    for report in execute(jobs, workers):
        reports.append(report)
        say(f"[{len(reports)}/{len(jobs)}] {_line(report)}")
        if report.failure:
            say(report.failure + "\n")
    summary = [
        {
            "lesson": report.job.name,
            "edition": report.job.edition,
            "seconds": round(report.seconds, 1),
            "exercises": dict(report.exercises),
            "failure": report.failure,
        }
        for report in sorted(reports, key=lambda report: (report.job.name, report.job.edition))
    ]
    (runs / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return reports


def run_folder(parent: Path | None = None) -> Path:
    """A folder named after the present UTC time, under ``runs/`` of the checkout; not made yet."""
    return (parent or repo_root() / "runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _line(report: Report) -> str:
    job = report.job
    return f"{job.name}, {job.edition} edition: {'FAILED' if report.failure else 'ok'}, {report.seconds:.0f} s"


def _measure(shelf: Shelf, folder: str, profile: Profile, runs: Path) -> None:
    """The lesson's record into the run's folder; profile full also replaces the one in data/ that claims rest on."""
    if not hasattr(shelf.lab(folder), "MEASURE"):
        print(f"{folder} declares no MEASURE: no record")
        return
    print(f"measuring {folder}", flush=True)
    path = runs / folder / "record.nc"
    path.parent.mkdir(parents=True, exist_ok=True)
    if profile == "full":
        shutil.copyfile(measure(shelf, folder, profile), path)
        print(f"replaced data/measured/{folder}.nc")
    else:
        records.save(measured(shelf, folder, profile), path)
    print(f"wrote {path.relative_to(repo_root())}")


def _write_claims(shelf: Shelf, runs: Path) -> None:
    rows = [
        {"claim": row.claim.id, "terms": asdict(row.claim.terms), "problem": row.problem, **asdict(row.verdict)}
        for row in claims_ledger.evaluate(shelf)
    ]
    (runs / "claims.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="folder or number; all when none is given")
    parser.add_argument(
        "--profile",
        choices=get_args(Profile),
        default="quick",
        help="full renews the records that claims are judged by",
    )
    parser.add_argument("--edition", choices=(*EDITIONS, "both", "none"), default="both", help="none: only measure")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at once")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="VALUE is JSON or text"
    )


def _run(arguments: Namespace) -> int:
    shelf, profile = own_shelf(), arguments.profile
    if arguments.jobs < 1:
        raise Refusal("run", "--jobs 1 or more", str(arguments.jobs), "leave it out for one at a time")
    if profile == "gpu":
        _refuse_without_gpu()
    named = [shelf.find(name) for name in arguments.lessons]
    if problems := build.check(shelf, named or None):
        print("\n".join(problems))
        return 1
    folders = named or shelf.folders()
    editions = {"both": EDITIONS, "none": ()}.get(arguments.edition, (arguments.edition,))
    parameters = dict(_parameter(text) for text in arguments.parameter)
    runs = run_folder()
    jobs = plan(shelf, folders, profile, editions, runs, parameters=parameters, workers=arguments.jobs)
    for folder in folders:
        _measure(shelf, folder, profile, runs)
    reports = run(jobs, runs, arguments.jobs, say=lambda text: print(text, flush=True))
    _write_claims(shelf, runs)
    for report in reports:
        if report.seconds > LIMITS[profile].budget:
            print(f"{_line(report)}: over the budget of {LIMITS[profile].budget} s for the profile {profile}")
    failed = sum(bool(report.failure) for report in reports)
    print(f"{len(reports) - failed} of {len(reports)} notebooks ok; outputs in {runs.relative_to(repo_root())}")
    return 1 if failed else 0


def _parameter(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise Refusal("run", "--parameter NAME=VALUE", repr(text), "write it with an equals sign")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _refuse_without_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise Refusal("run --profile gpu", "a GPU that torch can use", "none", "use --profile quick or full")


COMMAND = Command("execute lessons headless and record what they measure", _configure, _run)
