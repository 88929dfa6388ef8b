"""The machines that kernels are compiled for: what a multiprocessor holds, and the peaks of the whole device.

Sources: NVIDIA's CUDA programming guide (compute capabilities) and the data sheets of A100 SXM 80 GB, H100 SXM and
B200; AMD's CDNA 3 instruction set guide and the data sheet of the MI300X. Rates are for dense matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gatescope_kernels.ops._launch import Target


@dataclass(frozen=True, slots=True)
class Machine:
    """One device.

    threads         of a warp (a wavefront at AMD)
    warps           that a multiprocessor keeps resident at most, over its four partitions
    registers       32-bit, of one partition
    register_unit   registers a thread are given in multiples of this
    shared_bytes    shared memory of a multiprocessor; ``shared_reserved`` of it goes with each block
    blocks          resident at most
    tensor_columns  of tensor memory, 0 where there is none
    tflops          dense peak of matrix products by operand dtype; float32 as the kernels compute it
    gigabytes_s     bandwidth of the device's memory
    """

    target: Target
    device: str
    architecture: int | str
    threads: int
    warps: int
    registers: int
    register_unit: int
    shared_bytes: int
    shared_reserved: int
    blocks: int
    tensor_columns: int
    tflops: dict[torch.dtype, int]
    gigabytes_s: int

    def occupancy(self, registers: int, shared: int, warps: int, tensor_columns: int = 0) -> float:
        """Share of ``warps`` that can be resident when each thread takes ``registers``, and each block of ``warps``
        warps ``shared`` bytes and ``tensor_columns`` columns. 0 where not even one block fits."""
        a_thread = -(-max(registers, 1) // self.register_unit) * self.register_unit
        by_registers = 4 * (self.registers // (a_thread * self.threads)) // warps
        by_shared = self.shared_bytes // max(1, shared + self.shared_reserved)
        by_columns = self.tensor_columns // tensor_columns if tensor_columns else self.blocks
        blocks = min(self.blocks, self.warps // warps, by_registers, by_shared, by_columns)
        return blocks * warps / self.warps


def _tflops(half: int, single: int) -> dict[torch.dtype, int]:
    return {torch.bfloat16: half, torch.float16: half, torch.float32: single}


#: Three products in TF32 make one in float32.
_TF32_PRODUCTS = 3


def _nvidia(
    architecture: int, device: str, shared_kib: int, tensor_columns: int, half: int, tf32: int, gigabytes_s: int
) -> Machine:
    """What the data-centre devices since sm_80 share, and where they differ."""
    return Machine(
        Target(f"sm_{architecture}", "cuda"),
        device,
        architecture,
        threads=32,
        warps=64,
        registers=1 << 14,
        register_unit=8,
        shared_bytes=shared_kib * 1024,
        shared_reserved=1024,
        blocks=32,
        tensor_columns=tensor_columns,
        tflops=_tflops(half, tf32 // _TF32_PRODUCTS),
        gigabytes_s=gigabytes_s,
    )


_MI300X = Machine(
    Target("gfx942", "hip"),
    "MI300X",
    "gfx942",
    threads=64,
    warps=32,
    registers=512 * 64,
    register_unit=8,
    shared_bytes=64 * 1024,
    shared_reserved=0,
    blocks=32,
    tensor_columns=0,
    tflops=_tflops(1307, 163),
    gigabytes_s=5300,
)

MACHINES: dict[str, Machine] = {
    machine.target.name: machine
    for machine in (
        _nvidia(80, "A100", shared_kib=164, tensor_columns=0, half=312, tf32=156, gigabytes_s=2039),
        _nvidia(90, "H100", shared_kib=228, tensor_columns=0, half=989, tf32=495, gigabytes_s=3350),
        _nvidia(100, "B200", shared_kib=228, tensor_columns=512, half=2250, tf32=1125, gigabytes_s=8000),
        _MI300X,
    )
}
