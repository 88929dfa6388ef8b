"""The table and the folders are the same ops, and every folder is complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gatescope_kernels.ops as ops
import pytest
import torch
from gatescope_kernels.ops._table import OPS, Op

FOLDER = Path(ops.__file__).parent


def test_folders_are_rows() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(OPS)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    "file", ["api.py", "reference.py", "blockwise.py", "fused.py", "row.py", "bench.py", "README.md"]
)
def test_folder_is_complete(name: str, file: str) -> None:
    assert (FOLDER / name / file).stat().st_size > 0


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_row_describes_the_op(op: Op) -> None:
    assert len({case.name for case in op.cases}) == len(op.cases)
    assert set(op.implementations) == {"reference", "blockwise", "fused"}
    assert op.unfused < {case.name for case in op.cases}
    assert op.budget.keys() == op.gradient_budget.keys()
    arguments, results = set(), set()
    for case in op.cases:
        inputs = op.inputs(case, torch.float32, 0)
        arguments |= inputs.keys()
        results |= op.call("reference", inputs).keys()
    assert set(op.differentiable) <= arguments
    assert set(op.outputs) == results, "every declared result appears in some case, and no other"


def test_importing_the_package_leaves_triton_alone() -> None:
    code = "import sys, gatescope_kernels; print(sorted(m for m in sys.modules if m.split('.')[0] == 'triton'))"
    env = {"PYTHONPATH": str(FOLDER.parents[1]), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"
