"""How a Triton kernel is started: on the device of its tensors, in the interpreter, or only written down.

Every fused op starts its kernels through `launch` and nowhere else. So the compile gate learns which kernels an op
starts, with which tile sizes, by running the op under `recording`: no list of kernels is kept by hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

#: The dtypes that fused ops compute in.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True)
class Target:
    """What a kernel is compiled for. ``name`` is "sm_90" or "gfx942"; ``backend`` is "cuda", "hip" or "interpreter"."""

    name: str
    backend: str


INTERPRETER = Target("interpreter", "interpreter")


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """One start of one kernel: ``arguments`` by parameter name (tensors, numbers, constexprs alike)."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int


@dataclass(slots=True)
class Recording:
    """The launches of one run, none of which was carried out: results hold uninitialised memory."""

    target: Target
    launches: list[Launch] = field(default_factory=list)


_RECORDING: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recording(target: Target) -> Iterator[Recording]:
    """Inside, `launch` writes down what it would start on ``target`` and starts nothing; CPU tensors will do."""
    record = Recording(target)
    token = _RECORDING.set(record)
    try:
        yield record
    finally:
        _RECORDING.reset(token)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: on any device, slowly, and wrongly in bfloat16."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def obstacle(x: Tensor) -> tuple[str, str, str] | None:
    """Why no fused kernel can run on ``x``: (wanted, got, next step) of a Refusal; None where it can."""
    if not _has_triton():
        return "Triton, which is published for Linux", "none installed", "use impl='blockwise'"
    if x.dtype not in DTYPES:
        return "float16, bfloat16 or float32", str(x.dtype), "use impl='blockwise', which also computes in float64"
    if _RECORDING.get() is not None:
        return None
    if interpreted():
        if x.dtype == torch.bfloat16:
            return (
                "float16 or float32 in Triton's interpreter",
                "bfloat16, which it gets wrong",
                "unset TRITON_INTERPRET",
            )
        return None
    if x.device.type != "cuda":
        return "tensors on a GPU", str(x.device), "use impl='auto', or set TRITON_INTERPRET=1 to watch the kernel run"
    return None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def target(x: Tensor) -> Target:
    """What kernels on ``x`` are compiled for, so that tile sizes may depend on it."""
    record = _RECORDING.get()
    if record is not None:
        return record.target
    if interpreted():
        return INTERPRETER
    properties = torch.cuda.get_device_properties(x.device)
    if torch.version.hip:
        return Target(properties.gcnArchName.split(":")[0], "hip")
    return Target(f"sm_{properties.major}{properties.minor}", "cuda")


def precision(x: Tensor) -> str:
    """``input_precision`` of tl.dot on operands in x's dtype: products of float32 stay exact to float32's rounding.

    Three TF32 products give that on NVIDIA's tensor cores; AMD's multiply float32 as it is.
    """
    return "tf32x3" if x.dtype == torch.float32 and target(x).backend == "cuda" else "ieee"


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 2, **constexprs: Any) -> None:
    """Start ``kernel`` on ``grid`` programs. ``args`` are its tensors and numbers in order, then constexprs by name."""
    record = _RECORDING.get()
    if record is not None:
        names = kernel.arg_names
        arguments = dict(zip(names, args, strict=False)) | constexprs
        if missing := [name for name in names if name not in arguments]:
            raise TypeError(f"{kernel.__name__} is started without {', '.join(missing)}")
        record.launches.append(Launch(kernel, grid, arguments, warps, stages))
        return
    device = next(x.device for x in args if isinstance(x, Tensor))
    if device.type != "cuda":
        kernel[grid](*args, **constexprs)
        return
    with torch.cuda.device(device):
        kernel[grid](*args, **constexprs, num_warps=warps, num_stages=stages)


def padded(width: int) -> int:
    """Channels of a tile: the next power of two, and at least the 16 that tensor cores take."""
    return max(16, 1 << (width - 1).bit_length())


def channels_last(x: Tensor) -> Tensor:
    """``x`` with the channels of a row next to each other, as kernels read them: itself, or a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
