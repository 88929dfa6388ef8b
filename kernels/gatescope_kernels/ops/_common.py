"""What every op does alike: choose an implementation, accumulate wide enough, and refuse tensors that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._launch import obstacle

#: The dtypes ops compute in.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Implementation = TypeVar("Implementation")


def choose(
    operator: str,
    impl: str,
    implementations: Mapping[str, Implementation],
    x: Tensor,
    unfit: tuple[str, str] | None = None,
) -> Implementation:
    """The implementation a caller named; "auto" is "fused" where a GPU holds ``x`` and the kernels know the case, else
    "blockwise".

    unfit   what the fused kernels want and what they got, where they do not know this case

    Raises Refusal for a name that is not there, and for "fused" where it cannot run.
    """
    if impl == "auto":
        fused = "fused" in implementations and x.is_cuda and unfit is None and obstacle(x) is None
        return implementations["fused" if fused else "blockwise"]
    if impl not in implementations:
        names = ("auto", *implementations)
        raise Refusal(operator, f"impl in {names}", repr(impl), "use impl='auto' for the fastest one that runs here")
    if impl == "fused":
        if (why := obstacle(x)) is not None:
            wanted, got, next_step = why
            raise Refusal(operator, f"for impl='fused': {wanted}", got, next_step)
        if unfit is not None:
            wanted, got = unfit
            raise Refusal(operator, f"for impl='fused': {wanted}", got, "use impl='auto' or 'blockwise'")
    return implementations[impl]


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_tensor(operator: str, what: str, x: Any) -> None:
    """``what`` is the name and shape, "q [B H T K]". Raises Refusal for anything but a tensor."""
    if not isinstance(x, Tensor):
        raise Refusal(operator, f"{what} as a tensor", type(x).__name__, "convert it with torch.as_tensor")


def check_filled(operator: str, what: str, x: Tensor) -> None:
    """Raises Refusal for a tensor with a dimension of 0."""
    if x.numel() == 0:
        raise Refusal(operator, f"{what} with no dimension of 0", str(tuple(x.shape)), "skip empty input")


def check_floating(operator: str, name: str, x: Tensor) -> None:
    """Raises Refusal for a dtype that ops do not compute in."""
    if x.dtype not in FLOATS:
        raise Refusal(operator, f"{name} in a floating dtype", str(x.dtype), f"convert with {name}.float()")


def check_dtype(operator: str, name: str, x: Tensor, of: str, like: Tensor) -> None:
    """Raises Refusal unless ``x`` has the dtype of the argument ``of``, which is ``like``."""
    if x.dtype != like.dtype:
        wanted = f"{name} in {possessive(of)} dtype {like.dtype}"
        raise Refusal(operator, wanted, str(x.dtype), f"convert with {name}.to({of}.dtype)")


def check_device(operator: str, name: str, x: Tensor, of: str, like: Tensor) -> None:
    """Raises Refusal unless ``x`` is on the device of the argument ``of``, which is ``like``."""
    if x.device != like.device:
        wanted = f"{name} on {possessive(of)} device {like.device}"
        raise Refusal(operator, wanted, str(x.device), f"move it with {name}.to({of}.device)")


def possessive(name: str) -> str:
    """q's, values'."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"
