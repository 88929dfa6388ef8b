"""What routed experts refuse. Of the values only the indices are read: out of range they would read other memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import check_device, check_dtype, check_filled, check_floating, check_tensor

OPERATOR = "routed_experts"
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
    low, high = torch.stack(expert_index.aminmax()).tolist()
    if low < 0 or high >= E:
        raise Refusal(
            OPERATOR,
            f"expert_index in [0, E) = [0, {E})",
            str(low if low < 0 else high),
            "to drop a token give its experts weight 0",
        )


def _check_tensor(name: str, tensor: Any, x: Tensor) -> None:
    layout = _LAYOUTS[name]
    check_tensor(OPERATOR, f"{name} {layout}", tensor)
    if tensor.dim() != layout.count(" ") + 1:
        flatten = "flatten sequences with x.reshape(-1, D), indices and weights with .reshape(-1, k)"
        stack = "stack the experts along a first dimension E"
        next_step = stack if layout.startswith("[E") else flatten
        raise Refusal(OPERATOR, f"{name} {layout}", str(tuple(tensor.shape)), next_step)
    check_filled(OPERATOR, f"{name} {layout}", tensor)
    if name == "expert_index":
        if tensor.dtype not in INTEGERS:
            got = str(tensor.dtype)
            raise Refusal(OPERATOR, f"{name} in an integer dtype", got, "pass the indices of topk, not its values")
    else:
        check_floating(OPERATOR, name, tensor)
        check_dtype(OPERATOR, name, tensor, "x", x)
    check_device(OPERATOR, name, tensor, "x", x)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], next_step: str) -> None:
    if tuple(tensor.shape) != shape:
        raise Refusal(OPERATOR, f"{name} {_LAYOUTS[name]} = {shape}", str(tuple(tensor.shape)), next_step)
