"""What a kernel did wrong with memory, read off the addresses it touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatescope_lessons.compare import compare
from gatescope_lessons.l15_fused_gate_kernel.memory import Kind, Memory, offsets

#: Per program, the offsets that it touches.
Touched = dict[int, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a grid of tiles covers tensors of one size: the tile of program (i, j) begins at i tile[0], j tile[1]."""

    size: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Programs along every axis."""
        return tuple(-(-size // tile) for size, tile in zip(self.size, self.tile, strict=True))

    def touched(self, strides: Sequence[int], masked: Sequence[bool] = (), swapped: bool = False) -> Touched:
        """Offsets in a tensor of these strides, by program, where each axis is ``masked`` or not; ``swapped`` takes the
        axes of the grid for each other."""
        masked = masked or (True,) * len(self.size)
        found = {}
        for program, place in enumerate(product(*map(range, self.grid))):
            at = place[::-1] if swapped else place
            axes = [
                [i for i in range(at[axis] * tile, (at[axis] + 1) * tile) if i < size or not masked[axis]]
                for axis, (size, tile) in enumerate(zip(self.size, self.tile, strict=True))
            ]
            found[program] = frozenset(
                sum(i * stride for i, stride in zip(spot, strides, strict=True)) for spot in product(*axes)
            )
        return found


@dataclass(frozen=True, slots=True)
class Case:
    """One start of a learner's kernel: its tensors by name, what to pass, and what must come out, in float64.

    wanted    tensor -> its right values
    mistakes  tensor -> sentence -> the values that this mistake gives
    tiling    where every tensor is touched tile by tile; ``axes`` names its axes, ``strides`` the parameters
    rtol      relative to the largest right value
    """

    tensors: Mapping[str, Tensor]
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, int]
    wanted: Mapping[str, Tensor]
    mistakes: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    tiling: Tiling | None = None
    axes: tuple[str, ...] = ("element",)
    bounds: tuple[str, ...] = ("n",)
    rtol: float = 1e-4

    def start(self, kernel: Any, undefined: float = float("nan")) -> Memory:
        """The memory after the kernel has run. Raises KernelError."""
        memory = Memory(self.tensors, undefined)
        for name in self.wanted:
            memory.tensors[name].fill_(float("nan"))
        memory.run(kernel, self.grid, *self.arguments, **self.constants)
        return memory


def fault(kernel: Any, case: Case) -> str | None:
    """The first thing wrong with ``kernel``: addresses first, then values. Raises KernelError."""
    memory = case.start(kernel)
    found = next(_addresses(memory, case), None) or _values(memory, case)
    if found and any(not torch.isfinite(memory.tensors[name]).all() for name in case.wanted):
        lenient = case.start(kernel, undefined=0.0)
        if _values(lenient, case) is None and not next(_addresses(lenient, case), None):
            return (
                "NaN from lanes that were masked out: tl.load(..., mask=...) without other= leaves them undefined. "
                "It gives 0 by luck; say other=... yourself, or keep such lanes out of every sum"
            )
    return found


def _addresses(memory: Memory, case: Case) -> Iterator[str]:
    grid = case.grid
    if wrong := sorted(axis for axis in memory.axes if axis >= len(grid)):
        yield f"tl.program_id({wrong[0]}) is 0 in every program: the grid {grid} has no axis {wrong[0]}"
    missing = [axis for axis, programs in enumerate(grid) if programs > 1 and axis not in memory.axes]
    if missing:
        yield (
            f"all programs along axis {missing[0]} of the grid {grid} do the same: ask tl.program_id({missing[0]}) "
            "which block is whose"
        )
    for kind in ("read", "write"):
        for index, name in enumerate(memory.tensors):
            yield from _tensor(memory, case, kind, index, name)
    for name in case.wanted:
        yield from _coverage(memory, case, name)


def _tensor(memory: Memory, case: Case, kind: Kind, index: int, name: str) -> Iterator[str]:
    """What is wrong with the addresses of one tensor, with the mistake that they give away."""
    x, word = memory.tensors[name], "load" if kind == "read" else "store"
    programs: dict[int, set[int]] = {}
    for access in memory.accesses:
        mine = access.cells.tensor == index
        if access.kind == kind and mine.any():
            programs.setdefault(access.program, set()).update(access.cells.offset[mine].tolist())
    if not programs:
        return
    own = set(offsets(x).tolist())
    outside = sorted(set().union(*programs.values()) - own)
    if case.tiling is not None and x.ndim == len(case.tiling.size):
        touched = {program: frozenset(found) for program, found in programs.items()}
        if touched != {key: value for key, value in case.tiling.touched(x.stride()).items() if value}:
            yield from _recognised(memory, case, touched, name, word)
    if outside:
        verb = "reads" if kind == "read" else "writes"
        last, who = max(own), min(p for p, found in programs.items() if not found <= own)
        place = "before its first" if outside[0] < 0 else "past its last" if outside[-1] > last else "between its rows"
        next_step = f"use the strides of {name}" if place.startswith("between") else f"mask the {word}"
        yield f"{verb} {len(outside)} elements that are not {name}'s, {place} (program {who}): {next_step}"


def _recognised(memory: Memory, case: Case, touched: Touched, name: str, word: str) -> Iterator[str]:
    """Sentences for the mistakes that give just these addresses."""
    tiling, x = case.tiling, memory.tensors[name]
    assert tiling is not None
    rank, strides = len(tiling.size), x.stride()

    def is_(found: Touched) -> bool:
        return touched == {program: own for program, own in found.items() if own}

    for masked in product((True, False), repeat=rank):
        lacking = [case.bounds[axis] for axis in range(rank) if not masked[axis]]
        if lacking and is_(tiling.touched(strides, masked)):
            which = "no mask" if len(lacking) == rank else f"no mask for the axis of {lacking[0]}"
            yield (
                f"the {word} of {name} has {which}: the last tile passes the end and touches memory that is not "
                f"{name}'s. mask={' & '.join(f'(index < {bound})' for bound in lacking)}"
            )
    if rank == 2:
        if is_(tiling.touched(strides, swapped=True)):
            yield "the axes of the grid are swapped: program_id(0) counts tiles of rows, program_id(1) tiles of columns"
        if is_(tiling.touched((tiling.size[1], 1))):
            yield (
                f"the {word} of {name} takes it for one with its rows packed one after another; it is not contiguous. "
                f"Its strides are passed: {strides}"
            )
        for other, y in memory.tensors.items():
            if y.stride() != strides and is_(tiling.touched(y.stride())):
                yield f"the {word} of {name} uses the strides of {other}"
        if is_(tiling.touched(strides[::-1])):
            yield f"the {word} of {name} has its two strides swapped"


def _coverage(memory: Memory, case: Case, name: str) -> Iterator[str]:
    """Elements of a result that nobody writes, or several programs do."""
    index, x = list(memory.tensors).index(name), memory.tensors[name]
    written = [
        offset
        for access in memory.accesses
        if access.kind == "write"
        for offset in access.cells.offset[(access.cells.tensor == index) & access.cells.inside].tolist()
    ]
    if not written:
        yield f"nothing is written to {name}: end with tl.store({name}_ptr + ..., ..., mask=...)"
        return
    order = offsets(x).tolist()
    never = sorted(set(order) - set(written), key=order.index)
    if never:
        yield f"{len(never)} of {x.numel()} elements of {name} are never written, {_at(order, never[0], x, case)} first"
    once, times = np.unique(written, return_counts=True)
    if (times > 1).any():
        twice, count = int(once[times > 1][0]), int((times > 1).sum())
        yield f"{count} elements of {name} are written more than once, {_at(order, twice, x, case)} first"


def _at(order: list[int], offset: int, x: Tensor, case: Case) -> str:
    spot = np.unravel_index(order.index(offset), tuple(x.shape))
    return ", ".join(f"{axis} {int(i)}" for axis, i in zip(case.axes, spot, strict=False))


def _values(memory: Memory, case: Case) -> str | None:
    for name, right in case.wanted.items():
        wrong = compare(
            memory.tensors[name].double(),
            right,
            axes=case.axes,
            rtol=case.rtol,
            atol=case.rtol * max(1e-3, float(right.abs().max())),
            mistakes=case.mistakes.get(name),
        )
        if wrong:
            return f"{name}: {wrong}" if len(case.wanted) > 1 else wrong
    return None
