"""Every kernel that an op launches compiles for four GPUs within its budget; and the gate sees what breaks one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gatescope_kernels import Refusal
from gatescope_kernels.compile_gate import COMMAND, faults, unused_budgets
from gatescope_kernels.compiled import Compiled
from gatescope_kernels.ops._row import Budget, Production, Work
from gatescope_kernels.ops._table import OPS
from gatescope_kernels.roofline import bounds
from gatescope_kernels.targets import MACHINES

HERE = Path(__file__).parent
OCCUPANCY = dict.fromkeys(MACHINES, 25)
GOOD = Compiled("k", "sm_80", 4, 2, 128, 0, 4096, 16, products=2, scalar_products=0, occupancy=0.25)


def compiling(*command: str) -> subprocess.CompletedProcess:
    """A process of its own: in this one the kernels are interpreted."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, timeout=900, check=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> dict:
    require("triton")
    file = tmp_path_factory.mktemp("gate") / "report.json"
    done = compiling("-m", "gatescope_kernels.compile_gate", "--json", str(file))
    assert file.exists(), done.stderr
    return json.loads(file.read_text()) | {"status": done.returncode, "text": done.stdout}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_keeps_to_its_budget(op: str, report: dict) -> None:
    verdicts = [verdict for verdict in report["kernels"] if verdict["op"] == op]
    assert {verdict["compiled"]["target"] for verdict in verdicts} == set(MACHINES)
    assert not [(v["production"], v["dtype"], v["compiled"], v["faults"]) for v in verdicts if v["faults"]]
    assert {verdict["compiled"]["kernel"] for verdict in verdicts} == OPS[op].budgets.keys()


def test_report_is_for_a_person_too(report: dict) -> None:
    assert report["status"] == 0
    assert "roofline" in report["text"]
    assert {bound["direction"] for bound in report["roofline"]} == {"forward", "backward"}


@pytest.mark.parametrize("op", OPS)
def test_productions_are_in_half_and_in_single_precision(op: str) -> None:
    assert {production.dtype for production in OPS[op].productions} >= {torch.bfloat16, torch.float32}


def test_the_gate_reads_what_a_binary_says(require: Callable[..., None]) -> None:
    require("triton")
    done = compiling(str(HERE / "gate_kernels.py"))
    assert not done.returncode, done.stderr
    good, scalar, spilling = (Compiled(**numbers) for numbers in json.loads(done.stdout).values())
    budget = Budget(1, OCCUPANCY)
    assert list(faults(good, budget)) == []
    assert good.instructions >= 16
    assert "without tensor cores" in " ".join(faults(scalar, budget))
    assert "spills" in " ".join(faults(spilling, budget))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spilled": 8}, "spills 8 bytes"),
        ({"products": 1}, "1 matrix products, budget 2"),
        ({"scalar_products": 1}, "1 matrix products without tensor cores"),
        ({"instructions": 0}, "no tensor-core instruction"),
        ({"occupancy": 0.125}, "occupancy 12 %, budget 25 %"),
        ({"target": "sm_70"}, "no occupancy budget for this target"),
    ],
)
def test_a_fault_is_named(change: dict, words: str) -> None:
    assert list(faults(GOOD, Budget(2, OCCUPANCY))) == []
    assert words in " ".join(faults(replace(GOOD, **change), Budget(2, OCCUPANCY)))


def test_a_budget_may_name_several_numbers_of_products() -> None:
    assert list(faults(GOOD, Budget((1, 2), OCCUPANCY))) == []
    assert "2 matrix products, budget 1 or 3" in " ".join(faults(GOOD, Budget((1, 3), OCCUPANCY)))


def test_a_kernel_without_a_budget_and_a_budget_without_a_kernel_are_faults() -> None:
    assert list(faults(GOOD, None)) == ["no budget in the row"]
    op = OPS["polynorm"]
    assert list(unused_budgets(op, [])) == sorted(op.budgets)


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "columns", "wanted"),
    [
        ("sm_80", 32, 0, 8, 0, 1.0),
        ("sm_80", 128, 0, 4, 0, 0.25),
        ("sm_80", 129, 0, 4, 0, 12 / 64),
        ("sm_80", 255, 0, 8, 0, 8 / 64),
        ("sm_80", 32, 100 * 1024, 8, 0, 8 / 64),
        ("sm_90", 32, 100 * 1024, 8, 0, 16 / 64),
        ("sm_90", 32, 228 * 1024, 8, 0, 0.0),
        ("sm_100", 32, 0, 4, 256, 8 / 64),
        ("gfx942", 174, 16 * 1024, 4, 0, 8 / 32),
        ("gfx942", 64, 64 * 1024, 4, 0, 4 / 32),
    ],
)
def test_occupancy(target: str, registers: int, shared: int, warps: int, columns: int, wanted: float) -> None:
    assert MACHINES[target].occupancy(registers, shared, warps, columns) == wanted


def test_roofline_tells_memory_from_products() -> None:
    op, machine = OPS["polynorm"], MACHINES["sm_90"]
    production = Production(op.cases[0], torch.bfloat16, Work(10**9, 10**9), Work(10**12, 10**9))
    forward, backward = bounds(op, production, [machine])
    assert (forward.bound, backward.bound) == ("memory", "compute")
    assert forward.least_ms == pytest.approx(1e3 * 1e9 / 3350e9)
    assert backward.least_ms == pytest.approx(1e3 * 1e12 / 989e12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "kernels that compile"),
        (("--op", "attentoin"), "--op one of .*gated_attention"),
        (("--json", "no/such/folder/report.json"), "folder that exists"),
    ],
)
def test_command_refuses(words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import ArgumentParser

    monkeypatch.setenv("TRITON_INTERPRET", "0" if words else "1")
    parser = ArgumentParser()
    COMMAND.configure(parser)
    with pytest.raises(Refusal, match=message):
        COMMAND.run(parser.parse_args(words))
