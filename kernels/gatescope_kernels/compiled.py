"""One kernel, compiled ahead of time for a machine that need not be here, and what its binary says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._launch import Launch
from gatescope_kernels.targets import Machine

_POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.bool: "*i1",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
_ALIGNMENT = 16
_TENSOR_INSTRUCTIONS = {"cuda": r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b", "hip": r"\bv_mfma"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the binary of one kernel says.

    registers     of a thread
    spilled       bytes of a thread's stack: what did not fit into registers, and nothing else
    shared        bytes of a block
    instructions  tensor-core instructions
    products      matrix products in the source; ``scalar_products`` of them run without tensor cores
    occupancy     share of a multiprocessor's warps that can be resident
    """

    kernel: str
    target: str
    warps: int
    stages: int
    registers: int
    spilled: int
    shared: int
    instructions: int
    products: int
    scalar_products: int
    occupancy: float


@dataclass(frozen=True, slots=True)
class Specialised:
    """A launch as the compiler sees it: types, constants and alignments of the parameters, no values."""

    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[int, Any], ...]
    aligned: tuple[int, ...]


def specialise(launch: Launch) -> Specialised:
    """As Triton's launcher does: None and 1 are constants, multiples of 16 and aligned pointers are known to be."""
    signature, constants, aligned = [], [], []
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        free = not (parameter.is_constexpr or value is None or (type(value) is int and value == 1))
        signature.append((parameter.name, _type(parameter.name, value) if free else "constexpr"))
        if not free:
            constants.append((i, value))
        elif _multiple(value):
            aligned.append(i)
    return Specialised(tuple(signature), tuple(constants), tuple(aligned))


def _type(name: str, value: Any) -> str:
    if isinstance(value, Tensor) and value.dtype in _POINTERS:
        return _POINTERS[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    got = f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip()
    raise Refusal("compile", f"{name}: a tensor or a number that kernels take", got, "pass it as a constexpr")


def _multiple(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.data_ptr() % _ALIGNMENT == 0
    return isinstance(value, int) and not isinstance(value, bool) and value % _ALIGNMENT == 0


def compile_launch(launch: Launch, machine: Machine) -> Compiled:
    """Compile what ``launch`` would start on ``machine``. Raises Refusal with the compiler's own words if it cannot."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    form = specialise(launch)
    name = launch.kernel.__name__
    source = ASTSource(
        launch.kernel,
        dict(form.signature),
        {(i,): value for i, value in form.constants},
        {(i,): [["tt.divisibility", _ALIGNMENT]] for i in form.aligned},
    )
    target = GPUTarget(machine.target.backend, machine.architecture, machine.threads)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    try:
        binary = triton.compile(source, target=target, options=options)
    except Exception as error:
        words = " ".join(str(error).split())[-600:] or type(error).__name__
        raise Refusal("compile", f"{name} to compile for {machine.target.name}", words, "see the kernel") from error
    registers, spilled, text = _read(binary.asm, machine.target.backend)
    shared = binary.metadata.shared
    columns = getattr(binary.metadata, "tmem_size", 0) or 0
    return Compiled(
        kernel=name,
        target=machine.target.name,
        warps=launch.warps,
        stages=launch.stages,
        registers=registers,
        spilled=spilled,
        shared=shared,
        instructions=len(re.findall(_TENSOR_INSTRUCTIONS[machine.target.backend], text)),
        products=len(re.findall(r"\btt\.dot\b", binary.asm["ttir"])),
        scalar_products=len(re.findall(r"\btt\.dot\b.*-> tensor<[^>]*#blocked", binary.asm["ttgir"])),
        occupancy=machine.occupancy(registers, shared, launch.warps, columns),
    )


def _read(asm: dict[str, Any], backend: str) -> tuple[int, int, str]:
    """Registers and stack bytes of a thread, and the disassembly."""
    if backend == "hip":
        text = asm["amdgcn"]
        return _number(r"; TotalNumVgprs: (\d+)", text), _number(r"; ScratchSize: (\d+)", text), text
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(asm["cubin"])
        usage, text = (_nvidia("cuobjdump", flag, cubin) for flag in ("-res-usage", "-sass"))
    return _number(r"\bREG:(\d+)", usage), _number(r"\bSTACK:(\d+)", usage) + _number(r"\bLOCAL:(\d+)", usage), text


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise Refusal("compile", f"a number after {pattern!r}", "none", "the disassembler's format has changed")
    return int(found[1])


def _nvidia(tool: str, flag: str, cubin: Path) -> str:
    """NVIDIA's own reader of binaries, which Triton's wheel carries."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    return subprocess.run([path, flag, cubin], capture_output=True, text=True, check=True).stdout


def distinct(launches: list[Launch]) -> Iterator[Launch]:
    """Launches that compile to different binaries."""
    seen = set()
    for launch in launches:
        key = (launch.kernel.__name__, repr(specialise(launch)), launch.warps, launch.stages)
        if key not in seen:
            seen.add(key)
            yield launch
