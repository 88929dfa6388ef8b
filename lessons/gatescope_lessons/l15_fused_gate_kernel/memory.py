"""Memory that watches: tensors laid far apart, and a record of every address that an interpreted kernel touches.

An address that belongs to no tensor is written down and goes no further: reading it gives NaN, writing it does nothing.
So does reading a lane that is masked out without ``other``, which a GPU leaves undefined.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Kind = Literal["read", "write"]
#: Bytes between tensors, before the first and after the last: far enough to tell whose end was passed.
_APART = 1 << 16


class Cells(NamedTuple):
    """Elements touched: the tensor they are nearest to, their offset in it in elements, whether they belong to it."""

    tensor: NDArray[np.int64]
    offset: NDArray[np.int64]
    inside: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Access:
    """What one load or store of one program asks for. ``cells`` holds every element once, ``width`` its bytes."""

    kind: Kind
    launch: int
    program: int
    cells: Cells
    width: int


class KernelError(Exception):
    """A kernel raised; the message says what and where."""


@dataclass(slots=True)
class Memory:
    """Copies of ``tensors``, strides and all, in a buffer of their own; ``accesses`` grows with every `run`.

    undefined  what a lane gives that is masked out without ``other``
    axes       of the grid that the kernels asked for their place in
    """

    tensors: dict[str, Tensor]
    undefined: float
    accesses: list[Access] = field(default_factory=list)
    axes: set[int] = field(default_factory=set)
    grids: list[tuple[int, ...]] = field(default_factory=list)
    _starts: NDArray[np.int64] = field(init=False)
    _owned: list[NDArray[np.int64]] = field(init=False)

    def __init__(self, tensors: Mapping[str, Tensor], undefined: float = float("nan")) -> None:
        self.undefined = undefined
        self.accesses, self.axes, self.grids = [], set(), []
        spans = [_span(x) * x.element_size() for x in tensors.values()]
        places = np.cumsum([_APART, *(-(-span // 16) * 16 + _APART for span in spans)])
        buffer = torch.zeros(int(places[-1]), dtype=torch.uint8)
        self.tensors = {}
        for (name, x), place, span in zip(tensors.items(), places[:-1].tolist(), spans, strict=True):
            own = buffer[place : place + span].view(x.dtype)
            own = own.as_strided(x.shape, x.stride(), own.storage_offset())
            self.tensors[name] = own.copy_(x)
        self._starts = np.array([x.data_ptr() for x in self.tensors.values()], dtype=np.int64)
        self._owned = [np.sort(offsets(x)) for x in self.tensors.values()]

    def run(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Start ``kernel``; an argument that names a tensor stands for it. Raises KernelError."""
        given = [self.tensors[value] if isinstance(value, str) else value for value in arguments]
        self.grids.append(grid)
        with self._watching(), np.errstate(all="ignore"):
            try:
                kernel[grid](*given, **constants)
            except Exception as error:
                raise KernelError(_told(error, kernel.fn)) from error

    def outside(self, kind: Kind) -> list[Access]:
        """The accesses of a kind that touch what belongs to no tensor."""
        return [access for access in self.accesses if access.kind == kind and not access.cells.inside.all()]

    def bytes(self, kind: Kind, *names: str) -> int:
        """Bytes read or written, of all tensors or of those named; an element counts once a load or store."""
        known = list(self.tensors)
        chosen = [known.index(name) for name in names] or list(range(len(known)))
        return sum(
            access.width * int(np.isin(access.cells.tensor, chosen).sum())
            for access in self.accesses
            if access.kind == kind
        )

    def _cells(self, addresses: NDArray[np.int64], width: int) -> Cells:
        # Half of the room between two tensors belongs to each.
        tensor = np.searchsorted(self._starts - _APART // 2, addresses, side="right") - 1
        tensor = tensor.clip(0, len(self._starts) - 1)
        offset, inside = (addresses - self._starts[tensor]) // width, np.zeros(addresses.shape, dtype=bool)
        for index, owned in enumerate(self._owned):
            mine = tensor == index
            inside[mine] = np.isin(offset[mine], owned)
        return Cells(tensor, offset, inside)

    def _note(self, kind: Kind, pointers: Any, mask: Any, grid_index: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Write an access down; returns which of its lanes may go on to memory."""
        lanes = np.broadcast_to(getattr(mask, "data", mask), pointers.data.shape).astype(bool)
        width = pointers.get_element_ty().primitive_bitwidth // 8
        cells = self._cells(pointers.data.astype(np.int64), width)
        _, first = np.unique(pointers.data[lanes], return_index=True)
        once = Cells(*(part[lanes][first] for part in cells))
        x, y, z = grid_index
        _, wide, deep = (*self.grids[-1], 1, 1)[:3]
        self.accesses.append(Access(kind, len(self.grids) - 1, (x * wide + y) * deep + z, once, width))
        return lanes & cells.inside

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Inside, loads, stores and questions for the program's index pass through here."""
        from triton.language import int1
        from triton.runtime.interpreter import TensorHandle, interpreter_builder

        load, store = interpreter_builder.create_masked_load, interpreter_builder.create_masked_store
        program_id = interpreter_builder.create_get_program_id

        def watched_load(pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
            may = self._note("read", pointers, mask, interpreter_builder.grid_idx)
            found = load(pointers, TensorHandle(may, int1), other, *rest)
            lanes = np.broadcast_to(getattr(mask, "data", mask), may.shape).astype(bool)
            if found.data.dtype.kind == "f":
                found.data[lanes & ~may] = np.nan
                if other is None:
                    found.data[~lanes] = self.undefined
            return found

        def watched_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            may = self._note("write", pointers, mask, interpreter_builder.grid_idx)
            return store(pointers, value, TensorHandle(may, int1), *rest)

        def watched_program_id(axis: int) -> Any:
            self.axes.add(axis)
            return program_id(axis)

        hooks = {
            "create_masked_load": watched_load,
            "create_masked_store": watched_store,
            "create_get_program_id": watched_program_id,
        }
        for name, hook in hooks.items():
            setattr(interpreter_builder, name, hook)
        try:
            yield
        finally:
            for name in hooks:  # the methods of the class come to light again
                delattr(interpreter_builder, name)


def offsets(x: Tensor) -> NDArray[np.int64]:
    """Where the elements of ``x`` lie, in elements from its first, in the order of `x.flatten()`."""
    found = np.zeros(1, dtype=np.int64)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        found = (found[:, None] + np.arange(size) * stride).reshape(-1)
    return found


def _span(x: Tensor) -> int:
    """Elements from the first to the last of ``x``, both counted."""
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


def _told(error: BaseException, function: Any) -> str:
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    what = f"your kernel raised {type(chain[-1]).__name__}: {chain[-1]}".rstrip(": ")
    file = function.__code__.co_filename
    frames = [frame for each in chain for frame in traceback.extract_tb(each.__traceback__) if frame.filename == file]
    if not frames:
        return f"{what} (when started as the exercise says; compare the parameters)"
    line = linecache.getline(file, frames[-1].lineno or 0).strip()
    return f"{what}, at line {frames[-1].lineno}" + (f": {line}" if line else "")
