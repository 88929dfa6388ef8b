"""A kernel given as text, compiled for machines that need not be here, in a process that compiles.

The process that asks may have Triton's interpreter, as a lesson's notebook does; Triton chooses when it is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.compiled import Compiled, compile_launch
from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._launch import Launch
from gatescope_kernels.targets import MACHINES

_HEAD = "import triton\nimport triton.language as tl\n\n\n"


def compile_source(
    source: str,
    kernel: str,
    arguments: Mapping[str, Any],
    targets: Sequence[str] = ("sm_90", "gfx942"),
    *,
    warps: int = 4,
    stages: int = 2,
) -> list[Compiled]:
    """What the binaries of a kernel say, one a target.

    source     the kernel with its ``@triton.jit``; ``triton`` and ``tl`` are imported for it, nothing else is
    arguments  a value for every parameter: tensors (only dtype and shape count), numbers, constexprs

    Raises Refusal for an unknown target, without Triton, and with the compiler's own words.
    """
    if unknown := [target for target in targets if target not in MACHINES]:
        raise Refusal("compile_source", f"targets among {', '.join(MACHINES)}", ", ".join(unknown), "choose one")
    if find_spec("triton") is None:
        raise Refusal("compile_source", "Triton", "none installed", "it is published for Linux; run this there")
    given = {name: _described(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    order = {"kernel": kernel, "arguments": given, "targets": list(targets), "warps": warps, "stages": stages}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given_kernel.py"
        file.write_text(_HEAD + source, encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(file)]
        done = subprocess.run(
            command, input=json.dumps(order), capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise Refusal("compile_source", f"{kernel} to compile", words[-1] if words else "no answer", "see the kernel")
    return [Compiled(**numbers) for numbers in json.loads(done.stdout.splitlines()[-1])]


def _described(x: Tensor) -> dict[str, Any]:
    return {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)}


def _compile(file: Path, order: Mapping[str, Any]) -> list[Compiled]:
    sys.path.insert(0, str(file.parent))
    module = importlib.import_module(file.stem)
    arguments = {
        name: torch.empty(value["shape"], dtype=getattr(torch, value["dtype"])) if isinstance(value, dict) else value
        for name, value in order["arguments"].items()
    }
    kernel = getattr(module, order["kernel"])
    for parameter in kernel.params:
        if parameter.has_default:
            arguments.setdefault(parameter.name, parameter.default)
    if missing := [name for name in kernel.arg_names if name not in arguments]:
        raise Refusal("compile_source", f"a value of {', '.join(missing)}", "none", "name it among the arguments")
    launch = Launch(kernel, (1,), arguments, order["warps"], order["stages"])
    return [compile_launch(launch, MACHINES[target]) for target in order["targets"]]


if __name__ == "__main__":
    json.dump([asdict(one) for one in _compile(Path(sys.argv[1]), json.load(sys.stdin))], sys.stdout)
