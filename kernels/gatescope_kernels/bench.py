"""``gatescope bench``: every contest first agrees on its results, then is timed, and a loss is shown as a loss.

A contest is one shape: our implementation against what a person would otherwise run. Ops name their contests in the
op table; other rooms name theirs in the entry-point group ``gatescope.bench``, each a function (device, quick) ->
contests.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.allocations import Allocations
from gatescope_kernels.command import Command, check_json, write_json
from gatescope_kernels.errors import Refusal

GROUP = "gatescope.bench"
OURS = "gatescope"
#: A timing shorter than this repeats its contestant, so that the clock's grain does not show.
SHORTEST_S = 2e-3
#: A contest that would take longer has fewer rounds, three at least; its rows say how many.
LONGEST_S = 60.0

Contestant = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A library that does the same, timed where it is installed and named where it is not.

    package  what to install
    module   what ``run`` imports, at its first call
    """

    package: str
    module: str
    run: Contestant


@dataclass(frozen=True, slots=True)
class Contest:
    """Ours against the baselines and peers on one shape. Results with the same name must agree within ``tolerance``,
    relative to the largest magnitude (at least 1)."""

    op: str
    task: str
    shape: str
    dtype: str
    device: str
    ours: Contestant
    baselines: dict[str, Contestant]
    tolerance: float = 1e-4
    peers: dict[str, Peer] = field(default_factory=dict)

    def runners(self) -> tuple[dict[str, Contestant], tuple[str, ...]]:
        """Who runs, ours first, and the packages of peers that are not installed."""
        here = {name: peer.run for name, peer in self.peers.items() if _installed(peer.module)}
        absent = tuple(peer.package for name, peer in self.peers.items() if name not in here)
        return {OURS: self.ours, **self.baselines, **here}, absent


def _installed(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None


def working_dtype(device: str) -> torch.dtype:
    """What contests compute in: float32 on a CPU, bfloat16 on a GPU, as models do there."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def terms(device: str) -> dict[str, Any]:
    """The fields of a Contest that follow from the device: itself, the dtype and how far results may differ."""
    dtype = working_dtype(device)
    tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-4
    return {"device": device, "dtype": str(dtype).removeprefix("torch."), "tolerance": tolerance}


@dataclass(frozen=True, slots=True)
class Timing:
    """One contestant in one contest. ``ratio`` is ours / theirs: above 1 we are slower. ``peak_mib`` is the most memory
    that tensors made by it held at once. ``error`` is the largest difference from ours over ``compared``
    results. ``absent``, in our row, names peers that are not installed."""

    op: str
    task: str
    shape: str
    dtype: str
    contestant: str
    median_ms: float
    ratio: float
    peak_mib: float
    rounds: int
    compared: tuple[str, ...]
    error: float
    device: str
    threads: int
    torch: str
    python: str
    absent: tuple[str, ...] = ()


def hold(contest: Contest, rounds: int) -> list[Timing]:
    """Compare results, then time all contestants in turn, ``rounds`` times or as often as a minute allows, and take
    medians.

    Raises Refusal where a baseline computes something else than we do: such times would not be comparable.
    """
    runners, absent = contest.runners()
    ours = contest.ours()
    agreements = {OURS: ((), 0.0)} | {
        name: _agree(contest, name, ours, run()) for name, run in runners.items() if name != OURS
    }
    peaks = {name: _peak_mib(run, contest.device) for name, run in runners.items()}
    once = {name: _seconds(run, 1, contest.device) for name, run in runners.items()}
    repeats = {name: max(1, round(SHORTEST_S / seconds)) for name, seconds in once.items()}
    rounds = min(rounds, max(3, int(LONGEST_S / sum(max(SHORTEST_S, seconds) for seconds in once.values()))))
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            times[name].append(_seconds(run, repeats[name], contest.device))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [
        Timing(
            op=contest.op,
            task=contest.task,
            shape=contest.shape,
            dtype=contest.dtype,
            contestant=name,
            median_ms=1e3 * medians[name],
            ratio=medians[OURS] / medians[name],
            peak_mib=peaks[name],
            rounds=rounds,
            compared=agreements[name][0],
            error=agreements[name][1],
            device=_device_name(contest.device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            python=platform.python_version(),
            absent=absent if name == OURS else (),
        )
        for name in runners
    ]


def normal(*shape: int, device: str) -> Tensor:
    """Standard normal inputs of a contest, the same for the same shape on every device but for rounding."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return x.to(device, working_dtype(device))


def _agree(
    contest: Contest, name: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> tuple[tuple[str, ...], float]:
    shared = tuple(result for result in ours if result in theirs)
    if not shared:
        raise Refusal("bench", f"a result that {name} and {OURS} both compute", "none", "name the results alike")
    worst = 0.0
    for result in shared:
        mine, other = ours[result].double(), theirs[result].double()
        error = float((mine - other).abs().max() / other.abs().max().clamp(min=1.0))
        if not error <= contest.tolerance:
            raise Refusal(
                "bench",
                f"{contest.op} {contest.shape}: {result} of {name} within {contest.tolerance:.0e} of ours",
                f"{error:.1e}",
                "do not compare times of different results; find out which one is wrong",
            )
        worst = max(worst, error)
    return shared, worst


def _seconds(run: Contestant, repeats: int, device: str) -> float:
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronise()
    return (time.perf_counter() - start) / repeats


def _peak_mib(run: Contestant, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with Allocations() as allocations:
        run()
    return allocations.peak / 2**20


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def contests(device: str, quick: bool, op: str | None = None) -> Iterator[Contest]:
    """Contests of the op table and of every room, or those of one op. Raises Refusal for an op that has none."""
    from gatescope_kernels.ops._table import OPS

    sources: list[Callable[[str, bool], Iterable[Contest]]] = [row.contests for row in OPS.values()]
    sources += [point.load() for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]
    every = [contest for source in sources for contest in source(device, quick)]
    names = sorted({contest.op for contest in every})
    if op is not None and op not in names:
        raise Refusal("bench", f"--op one of {', '.join(names)}", repr(op), "leave --op out to run all")
    yield from (contest for contest in every if op in (None, contest.op))


def _line(timing: Timing, ours: Timing) -> str:
    numbers = f"  {timing.contestant:<34}{timing.median_ms:>11.3f} ms{timing.peak_mib:>10.1f} MiB   "
    if timing is ours:
        return numbers
    time = f"{timing.ratio:.2f}x slower" if timing.ratio > 1 else f"{1 / timing.ratio:.2f}x faster"
    more = ours.peak_mib - timing.peak_mib
    leaner = more < 0 < ours.peak_mib
    memory = f"{timing.peak_mib / ours.peak_mib:.1f}x leaner" if leaner else f"{more:.1f} MiB more"
    return f"{numbers}we are {time}, {memory}"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", metavar="NAME", help="only this op")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every timing there")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")


def _run(args: argparse.Namespace) -> int:
    if args.threads < 1:
        raise Refusal("bench", "--threads >= 1", str(args.threads), "use --threads 1 for one thread")
    check_json("bench", args.json)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    timings: list[Timing] = []
    try:
        for contest in contests(device, args.quick, args.op):
            held = hold(contest, rounds=5 if args.quick else 11)
            if not timings:
                print(f"{held[0].device}, {held[0].threads} threads, torch {held[0].torch}, Python {held[0].python}")
            print(f"\n{contest.op}: {contest.task}   {contest.shape} {contest.dtype}")
            print("\n".join(_line(timing, held[0]) for timing in held), flush=True)
            for package in held[0].absent:
                print(f"  {package:<34} not installed: pip install {package}", flush=True)
            timings += held
    finally:
        torch.set_num_threads(before)
    if args.json is not None:
        write_json(args.json, [asdict(timing) for timing in timings])
        print(f"\n{len(timings)} timings written to {args.json}", file=sys.stderr)
    return 0


COMMAND = Command(
    help="time every op against what one would otherwise run",
    configure=_configure,
    run=_run,
)
