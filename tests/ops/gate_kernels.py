"""Kernels that the compile gate must find wanting. Run as a program, it prints what their binaries say, as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch
import triton
import triton.language as tl
from gatescope_kernels.compiled import compile_launch
from gatescope_kernels.ops._launch import launch, recording
from gatescope_kernels.targets import MACHINES


@triton.jit
def product(a_ptr, b_ptr, c_ptr, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    """C = A B of one tile."""
    i = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    c = tl.dot(tl.load(a_ptr + i), tl.load(b_ptr + i), input_precision=PRECISION)
    tl.store(c_ptr + i, c.to(c_ptr.dtype.element_ty))


def main() -> None:
    """Four launches: good, on no tensor core, too large for its registers, and a type that kernels do not take."""
    found = {}
    for name, dtype, size, precision, warps in (
        ("good", torch.bfloat16, 64, "ieee", 4),
        ("scalar", torch.float32, 64, "ieee", 4),
        ("spilling", torch.bfloat16, 128, "ieee", 1),
    ):
        x = torch.zeros(size, size, dtype=dtype)
        with recording(MACHINES["sm_80"].target) as record:
            launch(product, (1,), x, x, x, SIZE=size, PRECISION=precision, warps=warps)
        found[name] = asdict(compile_launch(record.launches[0], MACHINES["sm_80"]))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
