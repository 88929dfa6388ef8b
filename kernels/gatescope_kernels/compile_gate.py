"""``gatescope compile-report``: every kernel an op starts, compiled for machines that need not be here, and judged.

The kernels are those that each production of an op's row launches, forward and backward, at the tile sizes that it
chooses for the machine. Budgets stand in the row. Exit status 1 says that one is not kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from gatescope_kernels.command import Command, check_json, write_json
from gatescope_kernels.compiled import Compiled, compile_launch, distinct
from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._launch import Launch, interpreted, recording
from gatescope_kernels.ops._row import Budget, Op, Production
from gatescope_kernels.roofline import Bound, bounds
from gatescope_kernels.targets import MACHINES, Machine


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kernel of one production on one machine, and what is wrong with it: nothing, or the words."""

    op: str
    production: str
    dtype: str
    compiled: Compiled | None
    faults: tuple[str, ...]


def launches(op: Op, production: Production, machine: Machine) -> list[Launch]:
    """What the op starts on ``machine`` for one production, forward and backward. Nothing is carried out."""
    inputs = op.inputs(production.case, production.dtype, 0)
    leaves = [inputs[name].requires_grad_() for name in op.differentiable if isinstance(inputs.get(name), Tensor)]
    with recording(machine.target) as record:
        results = [x for x in op.call("fused", inputs).values() if x.requires_grad]
        if results:
            torch.autograd.grad(results, leaves, [torch.empty_like(x) for x in results], allow_unused=True)
    return record.launches


def judge(op: Op, production: Production, machine: Machine) -> Iterator[Verdict]:
    """A verdict for every different kernel of one production on one machine."""
    dtype = str(production.dtype).removeprefix("torch.")
    for launch in distinct(launches(op, production, machine)):
        try:
            compiled = compile_launch(launch, machine)
        except Refusal as refusal:
            yield Verdict(op.name, production.case.name, dtype, None, (str(refusal),))
            continue
        budget = op.budgets.get(compiled.kernel)
        yield Verdict(op.name, production.case.name, dtype, compiled, tuple(faults(compiled, budget)))


def faults(compiled: Compiled, budget: Budget | None) -> Iterator[str]:
    """What a compiled kernel does not keep to."""
    if budget is None:
        yield "no budget in the row"
        return
    if compiled.spilled:
        yield f"spills {compiled.spilled} bytes"
    products = (budget.products,) if isinstance(budget.products, int) else budget.products
    if compiled.products not in products:
        yield f"{compiled.products} matrix products, budget {' or '.join(map(str, products))}"
    if compiled.scalar_products:
        yield f"{compiled.scalar_products} matrix products without tensor cores"
    if compiled.products and not compiled.instructions:
        yield "no tensor-core instruction"
    percent = 100 * compiled.occupancy
    wanted = budget.occupancy.get(compiled.target)
    if wanted is None:
        yield "no occupancy budget for this target"
    elif percent < wanted:
        yield f"occupancy {percent:.0f} %, budget {wanted} %"


def unused_budgets(op: Op, verdicts: list[Verdict]) -> Iterator[str]:
    """Budgets of kernels that no production launches."""
    launched = {verdict.compiled.kernel for verdict in verdicts if verdict.compiled}
    yield from sorted(op.budgets.keys() - launched)


def _judge_all(name: str, index: int, targets: tuple[str, ...]) -> list[Verdict]:
    from gatescope_kernels.ops._table import OPS

    torch.set_num_threads(1)
    op = OPS[name]
    return [verdict for target in targets for verdict in judge(op, op.productions[index], MACHINES[target])]


def report(ops: list[Op], targets: tuple[str, ...], processes: int) -> Iterator[tuple[Op, list[Verdict], list[Bound]]]:
    """Verdicts and rooflines, op by op, compiled in ``processes`` processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = {
            op.name: [pool.submit(_judge_all, op.name, i, targets) for i in range(len(op.productions))] for op in ops
        }
        for op in ops:
            verdicts = [verdict for job in jobs[op.name] for verdict in job.result()]
            machines = [MACHINES[target] for target in targets]
            yield op, verdicts, [bound for production in op.productions for bound in bounds(op, production, machines)]


def _line(verdict: Verdict) -> str:
    c = verdict.compiled
    if c is None:
        return f"    {verdict.faults[0]}"
    numbers = f"{c.registers:>9}{c.spilled:>8}{c.shared:>9}{c.warps:>7}{c.products:>10}{c.instructions:>9}"
    return f"    {c.kernel:<34}{c.target:<8}{numbers}{100 * c.occupancy:>10.0f} %  {'; '.join(verdict.faults)}"


_HEAD = (
    "    "
    + f"{'kernel':<34}{'target':<8}"
    + (f"{'registers':>9}{'spilled':>8}{'shared':>9}{'warps':>7}{'products':>10}{'tensor':>9}{'occupancy':>12}")
)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", metavar="NAME", help="only this op")
    parser.add_argument("--target", choices=list(MACHINES), action="append", help="only this machine; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="compile in so many processes")


def _run(args: argparse.Namespace) -> int:
    from gatescope_kernels.ops._table import OPS

    if find_spec("triton") is None:
        raise Refusal("compile-report", "Triton", "none installed", "it is published for Linux; run this there")
    if interpreted():
        wanted = "kernels that compile"
        raise Refusal("compile-report", wanted, "TRITON_INTERPRET=1, which interprets them", "unset TRITON_INTERPRET")
    if args.op is not None and args.op not in OPS:
        raise Refusal("compile-report", f"--op one of {', '.join(OPS)}", repr(args.op), "leave --op out for all")
    check_json("compile-report", args.json)
    ops = [op for op in OPS.values() if args.op in (None, op.name)]
    targets = tuple(args.target or MACHINES)
    everything: list[Verdict] = []
    every_bound: list[Bound] = []
    broken = 0
    for op, verdicts, found in report(ops, targets, max(1, args.processes)):
        print(f"\n{op.name}")
        for name, dtype in dict.fromkeys((verdict.production, verdict.dtype) for verdict in verdicts):
            print(f"  {name}, {dtype}\n{_HEAD}")
            lines = (v for v in verdicts if (v.production, v.dtype) == (name, dtype))
            print("\n".join(map(_line, lines)))
        missing = list(unused_budgets(op, verdicts))
        if missing:
            print(f"  budgets of kernels that no production launches: {', '.join(missing)}")
        print("  roofline")
        print("\n".join(f"    {bound.line()}" for bound in found), flush=True)
        broken += len(missing) + sum(bool(verdict.faults) for verdict in verdicts)
        everything += verdicts
        every_bound += found
    if args.json is not None:
        rows = {"kernels": [asdict(verdict) for verdict in everything], "roofline": [asdict(b) for b in every_bound]}
        write_json(args.json, rows)
    compiled = f"{len(everything)} kernels for {', '.join(targets)}"
    print(
        f"\n{compiled}: {f'{broken} outside their budgets' if broken else 'all within their budgets'}", file=sys.stderr
    )
    return 1 if broken else 0


COMMAND = Command(
    help="compile every kernel for four GPUs, none of them needed, and hold it to its budget",
    configure=_configure,
    run=_run,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="compile-report")
    _configure(parser)
    sys.exit(_run(parser.parse_args()))
