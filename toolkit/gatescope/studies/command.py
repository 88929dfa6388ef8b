"""`gatescope study`: measure a study over its grid, see what is missing, read what came out.

gatescope study run gate-atlas --jobs 2 --limit-minutes 30
gatescope study run gate-atlas --only position=sdpa seed=0,1,2
gatescope study status gate-atlas
"""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gatescope_kernels.command import Command

if TYPE_CHECKING:
    from gatescope.studies.expand import Grid
    from gatescope.studies.store import Store

#: Lines of a list before the rest is counted.
_SHOWN = 12


def _configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="the studies of this project and how far each is")
    run = _action(actions, "run", "measure what is missing; may be stopped at any time and started again")
    run.add_argument("--jobs", type=int, metavar="N", help="local processes (default: one a core)")
    run.add_argument("--scheduler", metavar="ADDRESS", help="run on this Dask scheduler, such as tcp://host:8786")
    run.add_argument("--limit-minutes", type=float, metavar="M", help="begin no point that would end later")
    run.add_argument("--retry", action="store_true", help="measure points again that crashed")
    _action(actions, "status", "what is finished, crashed, impossible and missing")
    show = _action(actions, "show", "effects with intervals over seeds, best and worst variants, outliers")
    show.add_argument("--metric", nargs="+", metavar="NAME", help="these metrics alone")
    how = show.add_mutually_exclusive_group()
    how.add_argument("--along", metavar="AXIS", help="exponents of the metrics along this axis, such as a sample size")
    how.add_argument(
        "--borne", metavar="AXIS", help="how far along this axis variants keep up, such as a learning rate"
    )
    out = _action(actions, "export", "one row a point: config, seconds, metrics")
    out.add_argument("--to", choices=("csv", "parquet"), default="csv", help="parquet needs pyarrow")
    out.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write")
    _action(actions, "keep", "put the metrics of a finished study into data/measured/studies/")
    cost = actions.add_parser("cost", help="on paper: what a study of a 1B model takes")
    cost.add_argument("--gpu", choices=("a100", "h100", "h200"), default="h100")
    cost.add_argument("--points", type=int, default=240, metavar="N", help="models that are trained (default: 240)")
    cost.add_argument("--tokens", type=float, metavar="D", help="a model is trained on (default: 20 a parameter)")
    cost.add_argument("--length", type=int, default=4096, metavar="T", help="tokens of a sequence")
    cost.add_argument("--utilisation", type=float, metavar="U", help="share of the peak that training keeps up")
    cost.add_argument("--price", type=float, metavar="$", help="dollars an hour")
    actions.add_parser("bench", help="what the engine costs here: a point, a resumed sweep, two workers against one")


def _action(actions: object, name: str, about: str) -> ArgumentParser:
    parser: ArgumentParser = actions.add_parser(name, help=about, description=about)  # type: ignore[attr-defined]
    parser.add_argument("study", metavar="NAME", help="a study of `gatescope study list`, or a .toml file of your own")
    parser.add_argument(
        "overrides", nargs="*", metavar="AXIS=V,V", help="these values in place of the study's; right after NAME"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="AXIS=V,V", help="only points with these values; may be repeated"
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="where points are kept (default: the cache)")
    return parser


def _run(arguments: Namespace) -> int:
    if arguments.action == "list":
        return _list()
    if arguments.action == "bench":
        from gatescope.studies.bench import bench

        return bench(_say)
    if arguments.action == "cost":
        return _cost(arguments)
    from gatescope.studies.expand import expand
    from gatescope.studies.spec import load
    from gatescope.studies.store import Store

    study = load(arguments.study)
    grid = expand(study, arguments.overrides, arguments.only)
    store = Store(arguments.store) if arguments.store else Store.of(study)
    actions = {"run": _measure, "status": _status, "show": _show, "export": _export, "keep": _keep}
    return actions[arguments.action](grid, store, arguments)


def _list() -> int:
    from gatescope.studies.expand import expand
    from gatescope.studies.spec import load, names
    from gatescope.studies.store import Store

    for name in names():
        study = load(name)
        grid = expand(study)
        done = len({point.address for point in grid.points} & Store.of(study).finished())
        print(f"{name}: {study.title}; {done} of {len(grid.points)} points finished")
    return 0


def _measure(grid: Grid, store: Store, arguments: Namespace) -> int:
    from gatescope.studies.engine import run
    from gatescope.studies.executors import local

    if arguments.scheduler:
        from gatescope.studies.cluster import dask

        place = dask(arguments.scheduler)
    else:
        place = local(arguments.jobs)
    _tell_impossible(grid)
    signal.signal(signal.SIGTERM, _interrupt)
    limit = None if arguments.limit_minutes is None else 60 * arguments.limit_minutes
    summary = run(grid, store, place, retry=arguments.retry, limit_s=limit, say=_say)
    print(
        f"{len(summary.measured)} measured, {len(summary.crashed)} crashed, {summary.left} left; kept in {store.folder}"
    )
    if summary.stopped:
        print(f"Stopped: {summary.stopped}. The same command goes on from here.")
    if summary.unkept:
        print(f"{len(summary.unkept)} measured and NOT kept, the store could not be written.")
    if summary.crashed:
        print(f"`gatescope study status {arguments.study}` shows why points crashed.")
    return 1 if summary.crashed or summary.unkept else 0


def _status(grid: Grid, store: Store, arguments: Namespace) -> int:
    from gatescope.studies.engine import duration

    done, failures, busy = store.finished(), store.failures(), store.claimed()
    addresses = {point.address for point in grid.points}
    missing = [point for point in grid.points if point.address not in done]
    crashed = [point for point in missing if point.address in failures]
    waiting = [point for point in missing if point.address not in failures]
    seconds = sorted(store.seconds(addresses & done))
    print(f"{grid.study.title}: {len(grid.points) - len(missing)} of {len(grid.points)} points finished")
    if seconds:
        typical = seconds[len(seconds) // 2]
        left = f", {duration(typical * len(waiting))} for the rest in one process" if waiting else ""
        print(f"{typical:.3g} s a point (median){left}")
    running = [point for point in missing if point.address in busy]
    _tell("being measured now", [grid.label(point.config) for point in running])
    _tell("missing", _grouped(grid, [point.config for point in waiting if point.address not in busy]))
    _tell("crashed", [f"{grid.label(p.config)}: {failures[p.address]['error'].strip()}" for p in crashed])
    _tell_impossible(grid)
    if others := len(done - addresses):
        print(f"{others} more in the store: of other overrides, code or data")
    return 0


def _show(grid: Grid, store: Store, arguments: Namespace) -> int:
    from dataclasses import replace

    from gatescope.studies.gather import gather, table
    from gatescope.studies.showing import shown, shown_along, shown_borne
    from gatescope.studies.spec import refuse_unknown

    study = grid.study
    if arguments.metric:
        refuse_unknown("study show", "metrics", arguments.metric, [metric.name for metric in study.metrics])
        metrics = tuple(metric for metric in study.metrics if metric.name in arguments.metric)
        grid = replace(grid, study=replace(study, metrics=metrics))
    record = gather(grid, store)
    frame = table(grid, record)
    if arguments.along:
        lines = shown_along(grid, frame, arguments.along)
    elif arguments.borne:
        lines = shown_borne(grid, frame, arguments.borne)
    else:
        lines = shown(grid, frame)
    print("\n".join(lines))
    _tell("damaged, left out; delete these folders and run again", [f"points/{name}" for name in record.damaged])
    return 0


def _export(grid: Grid, store: Store, arguments: Namespace) -> int:
    from gatescope.studies.export import export
    from gatescope.studies.gather import gather, table

    print(export(table(grid, gather(grid, store)), arguments.out, arguments.to))
    return 0


def _keep(grid: Grid, store: Store, arguments: Namespace) -> int:
    from gatescope.studies.keeping import keep

    print(keep(grid, store))
    return 0


def _cost(arguments: Namespace) -> int:
    from dataclasses import replace

    from gatescope.studies import cost

    given = {name: getattr(arguments, name) for name in ("utilisation", "price")}
    machine = replace(cost.MACHINES[arguments.gpu], **{name: v for name, v in given.items() if v is not None})
    print("\n".join(cost.table(machine, arguments.points, tokens=arguments.tokens, length=arguments.length)))
    return 0


def _grouped(grid: Grid, configs: list) -> list[str]:
    """Configs that differ in the replicate alone, in one line with their number."""
    replicate = grid.study.replicate
    counts: Counter[str] = Counter()
    for config in configs:
        rest = {key: value for key, value in config.items() if key != replicate}
        counts[grid.label(rest)] += 1
    return [f"{label} ({count} {replicate}{'s' if count > 1 else ''})" for label, count in counts.items()]


def _tell_impossible(grid: Grid) -> None:
    _tell("impossible", [f"{grid.label(item.config)}: {item.reason}" for item in grid.impossible])


def _tell(what: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{what} ({len(lines)}):")
        print("\n".join(f"  {line}".replace("\n", "\n    ") for line in lines[:_SHOWN]))
        if len(lines) > _SHOWN:
            print(f"  ... and {len(lines) - _SHOWN} more")


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


COMMAND = Command(
    "measure a claim over a grid: run, resume, see what is missing, compare with intervals", _configure, _run
)
