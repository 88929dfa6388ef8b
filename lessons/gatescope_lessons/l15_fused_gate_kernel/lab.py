"""Kernels run under watch: who reads and writes what, and how many bytes fusing saves. Everything is counted."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.views.style import Html, card, table
from gatescope_kernels import compile_source
from torch import Tensor

from gatescope_lessons.l15_fused_gate_kernel.interpreter import absent, available, interpreter
from gatescope_lessons.l15_fused_gate_kernel.memory import Memory, offsets

READS = records.Quantity(
    "reads",
    ("program", "cell"),
    "1",
    "loads of an element by a program",
    "a load counts an element once, however many of its lanes ask for it",
    "Triton's interpreter, watched",
    "one load of every element that is needed",
)
WRITES = records.Quantity(
    "writes",
    ("program", "cell"),
    "1",
    "stores to an element by a program",
    "a store counts an element once",
    "Triton's interpreter, watched",
    "one store of every element of the result",
)

#: How the gate can be computed, and three mistakes that can be watched.
VERSIONS = ("fused", "two kernels", "fused, no mask", "fused, wrong stride", "fused, tiles that overlap")
_FLAWS = dict(zip(VERSIONS, ("none", "none", "no mask", "stride", "overlap"), strict=True))
#: Columns that lie between the rows of y, as in a slice of a wider tensor.
_GAP = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """A gate on ``rows`` x ``columns`` numbers, in tiles of ``tile_rows`` x ``tile_columns``, powers of two.

    Raises Refusal for an unknown version, and for sizes that are no such numbers.
    """

    version: str = VERSIONS[0]
    rows: int = 10
    columns: int = 12
    tile_rows: int = 4
    tile_columns: int = 8

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise Refusal("Setting", f"version in {VERSIONS}", repr(self.version), "choose one of them")
        for name in ("tile_rows", "tile_columns"):
            size = getattr(self, name)
            if size < 1 or size & (size - 1):
                raise Refusal("Setting", f"{name} as a power of two", str(size), "tl.arange takes no other length")
        if min(self.rows, self.columns) < 1:
            raise Refusal("Setting", "1 row and 1 column or more", f"{self.rows} x {self.columns}", "give it some")


def watch_gate(setting: Setting) -> xr.Dataset:
    """Run the gate of ``setting`` and return who touched what. y is a slice of a wider tensor."""
    triton, _ = interpreter()
    from gatescope_lessons.l15_fused_gate_kernel import kernels

    T, V = setting.rows, setting.columns
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(T, V + _GAP, generator=generator)[:, :V]
    logit, out = torch.randn(T, V, generator=generator), torch.zeros(T, V)
    grid = (triton.cdiv(T, setting.tile_rows), triton.cdiv(V, setting.tile_columns))
    tile = {"BT": setting.tile_rows, "BV": setting.tile_columns}
    if setting.version == "two kernels":
        memory = Memory({"logit": logit, "gate": torch.zeros(T, V), "y": y, "out": out})
        memory.run(kernels.sigmoid_tile, grid, "logit", "gate", T, V, **tile)
        memory.run(kernels.multiply_tile, grid, "y", "gate", "out", T, V, y.stride(0), **tile)
    else:
        memory = Memory({"logit": logit, "y": y, "out": out})
        if setting.version == "fused, tiles that overlap":
            grid = (triton.cdiv(T, max(1, setting.tile_rows // 2)), grid[1])
        strides = (stride for x in (y, logit, out) for stride in x.stride())
        flaw = _FLAWS[setting.version]
        memory.run(kernels.gate_tile, grid, "y", "logit", "out", T, V, *strides, **tile, FLAW=flaw)
    return record(memory, setting.version)


def watch_attention(
    gate: str = "fused", T: int = 20, D: int = 8, BM: int = 8, BN: int = 8, *, early: bool = True
) -> xr.Dataset:
    """Causal attention of one head of ``T`` queries, with the gate ``fused`` into its end or in a kernel after it.

    early  a tile of queries stops at the last key that it may see

    Raises Refusal for another ``gate``.
    """
    if gate not in ("fused", "after"):
        raise Refusal("watch_attention", "gate 'fused' or 'after'", repr(gate), "choose one of them")
    triton, _ = interpreter()
    from gatescope_lessons.l15_fused_gate_kernel import kernels

    generator = torch.Generator().manual_seed(0)
    names = ("q", "k", "v", "logit", "out") if gate == "fused" else ("q", "k", "v", "y", "logit", "out")
    memory = Memory({name: torch.randn(T, D, generator=generator) for name in names})
    first = "out" if gate == "fused" else "y"
    sizes = {"D": D, "BM": BM, "BN": BN, "GATED": gate == "fused", "EARLY": early}
    grid = (triton.cdiv(T, BM),)
    memory.run(kernels.attend_tile, grid, "q", "k", "v", "logit", first, T, D**-0.5, **sizes)
    if gate == "after":
        memory.run(kernels.gate_tile, (*grid, 1), "y", "logit", "out", T, D, *(D, 1) * 3, BT=BM, BV=D)
    return record(memory, f"gate {gate}, {'up to the diagonal' if early else 'all keys'}")


def watch_training(keep: bool, n: int = 60, block: int = 16) -> xr.Dataset:
    """Forward and backward of the gate; ``keep`` writes the gate down in between, else it is computed again."""
    triton, _ = interpreter()
    from gatescope_lessons.l15_fused_gate_kernel import kernels

    names = ("y", "logit", "out", *(("gate",) if keep else ()), "dout", "dy", "dlogit")
    generator = torch.Generator().manual_seed(0)
    memory = Memory({name: torch.randn(n, generator=generator) for name in names})
    gate, grid = "gate" if keep else "out", (triton.cdiv(n, block),)
    memory.run(kernels.gate_forward, grid, "y", "logit", "out", gate, n, BLOCK=block, KEEP=keep)
    memory.run(kernels.gate_backward, grid, "dout", "y", "logit", gate, "dy", "dlogit", n, BLOCK=block, KEPT=keep)
    return record(memory, "the gate is kept" if keep else "the gate is computed again")


def watch(kernel: Any, grid: tuple[int, ...], tensors: Mapping[str, Tensor], *arguments: Any, **constants: Any) -> Any:
    """Run a kernel of your own; an argument that is the name of a tensor stands for it. Raises KernelError."""
    memory = Memory(tensors)
    memory.run(kernel, grid, *arguments, **constants)
    return record(memory, getattr(kernel, "__name__", "kernel"))


def record(memory: Memory, note: str) -> xr.Dataset:
    """What ``memory`` saw, as reads(program, cell) and writes(program, cell): all elements of its tensors, then what
    was touched outside. A program is labelled by its kernel and its place in the grid."""
    names = list(memory.tensors)
    place: dict[tuple[int, int], int] = {}
    for index, x in enumerate(memory.tensors.values()):
        for offset in offsets(x).tolist():
            place[index, offset] = len(place)
    owned = len(place)
    starts = np.cumsum([0, *(int(np.prod(grid)) for grid in memory.grids)])
    touched = []
    for access in memory.accesses:
        pairs = zip(access.cells.tensor.tolist(), access.cells.offset.tolist(), strict=True)
        touched.append([place.setdefault(pair, len(place)) for pair in pairs])
    counts = {kind: np.zeros((int(starts[-1]), len(place)), dtype=np.int32) for kind in ("read", "write")}
    for access, cells in zip(memory.accesses, touched, strict=True):
        counts[access.kind][starts[access.launch] + access.program, cells] += 1
    tensors = list(memory.tensors.values())
    spots = [_spot(tensors[index], offset) for index, offset in place]
    several = len(memory.grids) > 1
    labels = [
        f"{launch + 1}. kernel, {program}" if several else str(program)
        for launch, grid in enumerate(memory.grids)
        for program in range(int(np.prod(grid)))
    ]
    found = records.new(
        {
            "reads": READS.variable(counts["read"], {"program": labels}),
            "writes": WRITES.variable(counts["write"], {"program": labels}),
        },
        note=note,
    )
    return found.assign_coords(
        tensor=("cell", [names[index] for index, _ in place]),
        row=("cell", [row for row, _ in spots]),
        column=("cell", [column for _, column in spots]),
        inside=("cell", np.arange(len(place)) < owned),
        bytes=("cell", [tensors[index].element_size() for index, _ in place]),
    )


def _spot(x: Tensor, offset: int) -> tuple[int, int]:
    """Row and column of an offset, beyond the tensor too, by its strides."""
    if x.ndim == 1:
        return 0, offset // x.stride(0)
    (rows, columns), swapped = x.stride(), x.stride(0) < x.stride(1)
    if swapped:
        return (offset % columns) // rows, offset // columns
    return offset // rows, (offset % rows) // columns


def bytes_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """A row a record: bytes read and written, their sum, and that sum as a share of the first record's."""
    rows = []
    for name, ds in found.items():
        read, written = (int((ds[kind].sum("program") * ds["bytes"]).sum()) for kind in ("reads", "writes"))
        rows.append({"version": name, "bytes read": read, "bytes written": written, "bytes moved": read + written})
    frame = pd.DataFrame(rows)
    return frame.assign(share=frame["bytes moved"] / frame["bytes moved"].iloc[0])


def compiled(kernel: Any = None, targets: Sequence[str] = ("sm_90", "gfx942"), *, BM: int = 64, BN: int = 64) -> Html:
    """What the binary of a kernel with the parameters of exercise 4 says, by default of the lesson's own: float16,
    heads of 64 channels, tiles of ``BM`` queries and ``BN`` keys.

    Raises Refusal with the compiler's own words.
    """
    if not available():
        return absent()
    interpreter()
    from gatescope_lessons.l15_fused_gate_kernel import kernels

    kernel = kernels.attend_tile if kernel is None else kernel
    T, D = 4096, 64
    arguments: dict[str, Any] = {
        f"{name}_ptr": torch.empty(T, D, dtype=torch.float16) for name in ("q", "k", "v", "logit", "out")
    }
    arguments |= {"T": T, "scale": D**-0.5, "D": D, "BM": BM, "BN": BN}
    name = kernel.fn.__name__
    binaries = compile_source(textwrap.dedent(inspect.getsource(kernel.fn)), name, arguments, targets)
    rows = [
        [
            one.target,
            *map(str, (one.registers, one.spilled, one.shared, one.instructions)),
            f"{one.scalar_products} of {one.products}",
            f"{100 * one.occupancy:.0f} %",
        ]
        for one in binaries
    ]
    heads = ["", "registers", "spilled", "shared", "tensor-core instructions", "products without them", "occupancy"]
    spilled = sum(one.spilled for one in binaries)
    title = f"{name}: {', '.join(f'{one.registers} registers on {one.target}' for one in binaries)}, " + (
        f"{spilled} bytes spilled" if spilled else "nothing spilled"
    )
    notes = [f"Read from the binaries: float16, D = {D}, BM = {BM}, BN = {BN}; spilled and shared in bytes"]
    return card(title, notes, table(heads, rows), "gs-compiled")
