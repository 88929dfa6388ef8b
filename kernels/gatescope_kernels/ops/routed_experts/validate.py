"""What routed experts refuse. Of the values only the indices are read: out of range they would read other memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal

OPERATOR = "routed_experts"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LAYOUTS = {
    "x": "[N D]",
    "expert_index": "[N k]",
    "expert_weight": "[N k]",
    "w_gate": "[E D F]",
    "w_up": "[E D F]",
    "w_down": "[E F D]",
}


def check(x: Tensor, expert_index: Tensor, expert_weight: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> None:
    """Raise Refusal for whatever a caller passes that cannot be computed."""
    arguments = {
        "x": x,
        "expert_index": expert_index,
        "expert_weight": expert_weight,
        "w_gate": w_gate,
        "w_up": w_up,
        "w_down": w_down,
    }
    for name, tensor in arguments.items():
        _check_tensor(name, tensor, x)
    N, D = x.shape
    E, _, F = w_gate.shape
    _check_shape("expert_index", expert_index, (N, expert_index.shape[1]), "name k experts for each of the N tokens")
    _check_shape("expert_weight", expert_weight, tuple(expert_index.shape), "pass one weight a named expert")
    transpose = "weights are [E in out]; transpose those of torch.nn.Linear with .mT"
    _check_shape("w_gate", w_gate, (E, D, F), transpose)
    _check_shape("w_up", w_up, (E, D, F), transpose)
    _check_shape("w_down", w_down, (E, F, D), transpose)
    low, high = (int(bound) for bound in expert_index.aminmax())
    if low < 0 or high >= E:
        raise Refusal(
            OPERATOR,
            f"expert_index in [0, E) = [0, {E})",
            str(low if low < 0 else high),
            "to drop a token give its experts weight 0",
        )


def _check_tensor(name: str, tensor: Any, x: Tensor) -> None:
    layout = _LAYOUTS[name]
    if not isinstance(tensor, Tensor):
        got = type(tensor).__name__
        raise Refusal(OPERATOR, f"{name} {layout} as a tensor", got, "convert it with torch.as_tensor")
    if tensor.dim() != layout.count(" ") + 1:
        flatten = "flatten sequences with x.reshape(-1, D), indices and weights with .reshape(-1, k)"
        stack = "stack the experts along a first dimension E"
        next_step = stack if layout.startswith("[E") else flatten
        raise Refusal(OPERATOR, f"{name} {layout}", str(tuple(tensor.shape)), next_step)
    if tensor.numel() == 0:
        raise Refusal(OPERATOR, f"{name} {layout} with no dimension of 0", str(tuple(tensor.shape)), "skip empty input")
    if name == "expert_index":
        if tensor.dtype not in INTEGERS:
            got = str(tensor.dtype)
            raise Refusal(OPERATOR, f"{name} in an integer dtype", got, "pass the indices of topk, not its values")
    elif tensor.dtype not in FLOATS:
        raise Refusal(OPERATOR, f"{name} in a floating dtype", str(tensor.dtype), f"convert with {name}.float()")
    elif tensor.dtype != x.dtype:
        wanted = f"{name} in x's dtype {x.dtype}"
        raise Refusal(OPERATOR, wanted, str(tensor.dtype), f"convert with {name}.to(x.dtype)")
    if tensor.device != x.device:
        wanted = f"{name} on x's device {x.device}"
        raise Refusal(OPERATOR, wanted, str(tensor.device), f"move it with {name}.to(x.device)")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], next_step: str) -> None:
    if tuple(tensor.shape) != shape:
        raise Refusal(OPERATOR, f"{name} {_LAYOUTS[name]} = {shape}", str(tuple(tensor.shape)), next_step)
