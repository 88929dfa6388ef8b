"""One equation in three forms, and what each costs: operations, calls one after another, the largest tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gatescope_kernels import gated_linear_attention
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

#: Channels of keys and values of the inputs that are timed.
WIDTH = 32


def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Token by token: S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t / sqrt(K)."""
    return gated_linear_attention(q, k, v, g, impl="reference")[0]


def parallel(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B H T K"], v: Float[Tensor, "B H T V"], g: Float[Tensor, "B H T"]
) -> Float[Tensor, "B H T V"]:
    """All pairs at once: o = (Q K^T * D) V / sqrt(K) with D_ij = exp(g_{j+1} + ... + g_i) for j <= i, else 0."""
    since = g.cumsum(-1)
    D = (since[..., :, None] - since[..., None, :]).tril().exp().tril()
    return (q @ k.mT * D) @ v * q.shape[-1] ** -0.5


def chunked(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Chunks of 64 tokens: pairs inside a chunk, a state between chunks. What layers run on a CPU."""
    return gated_linear_attention(q, k, v, g, impl="blockwise")[0]


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "recurrent": recurrent,
    "parallel": parallel,
    "chunk": chunked,
}


def inputs(length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and log decays of one head, drawn from ``seed``; scores of the decay lie around 0.97."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, 1, length, WIDTH, generator=generator, dtype=torch.float64)
    g = torch.nn.functional.logsigmoid(torch.randn(1, 1, length, generator=generator, dtype=torch.float64)) / 16
    return q.to(dtype), k.to(dtype), v.to(dtype), g.to(dtype)


class Costs(TorchDispatchMode):
    """Counts what runs inside it, whatever the clock on the wall says.

    operations  multiplications and additions of matrix products, one for every number any other function makes
    calls       torch functions, one after another
    largest     numbers in the largest tensor made
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.calls = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.is_view:
            return out
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        flops = flop_registry.get(func._overloadpacket)
        self.operations += sum(made) if flops is None else flops(*args, **kwargs, out_val=out)
        self.calls += 1
        self.largest = max([self.largest, *made])
        return out


def costs(form: str, length: int) -> Costs:
    """What a forward pass of ``form`` over ``length`` tokens takes."""
    arguments = inputs(length)
    with torch.no_grad(), Costs() as counted:
        FORMS[form](*arguments)
    return counted


def disagreement(length: int, seed: int) -> float:
    """The largest difference between any two forms in float32, over the largest output."""
    arguments = inputs(length, seed)
    outputs = torch.stack([form(*arguments) for form in FORMS.values()])
    return float((outputs.amax(0) - outputs.amin(0)).max() / outputs.abs().max())


__all__ = ["FORMS", "WIDTH", "Costs", "chunked", "costs", "disagreement", "inputs", "parallel", "recurrent"]
