"""N:M sparsity: of each M contiguous inputs of a row at most N weights are read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from gatescope_kernels import nm_linear, nm_mask
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.sparsifiers.masks import Masks
from gatescope.sparsifiers.replacing import chosen_layers, put

Rule = Literal["ste", "srste", "masked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NMSpec:
    """What an `NMLinear` reads, and what its weights learn; see `gatescope_kernels.nm_linear` for the equations.

    n, m   weights that are read, of so many contiguous ones
    rule   "ste": those that are not read learn as if they were; "srste": and also shrink; "masked": they stand still,
           which after `mask_weights` is training with a fixed mask
    decay  lambda of "srste"; 2e-4 in the paper, under SGD

    Raises Refusal for n outside [1, m], an unknown rule, and a decay below 0.
    """

    n: int = 2
    m: int = 4
    rule: Rule = "srste"
    decay: float = 2e-4

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            got = f"{self.n}:{self.m}"
            step = "a row that reads nothing learns nothing; n = m reads all" if self.n < 1 else "keep at most m of m"
            raise Refusal("NMSpec", "N:M with 1 <= N <= M", got, step)
        if self.rule not in get_args(Rule):
            raise Refusal("NMSpec", f"a rule of {get_args(Rule)}", repr(self.rule), "choose one of them")
        if not self.decay >= 0:
            raise Refusal("NMSpec", "decay >= 0", f"{self.decay}", "the paper uses 2e-4")


class NMLinear(nn.Module):
    """A linear layer that reads its weight N:M sparse. It keeps the very parameters of the layer it stands for, so
    names, optimisers and files stay as they are; the weight itself is stored dense."""

    def __init__(self, linear: nn.Linear, spec: NMSpec) -> None:
        super().__init__()
        self.spec, self.weight, self.bias = spec, linear.weight, linear.bias

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """x (w * mask)^T + b, with the mask of the weights as they are now."""
        spec = self.spec
        return nm_linear(x, self.weight, self.bias, n=spec.n, m=spec.m, backward=spec.rule, decay=spec.decay)

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, {self.spec.n}:{self.spec.m}, {self.spec.rule}"


def to_nm(model: nn.Module, spec: NMSpec, dense: Collection[str] = ()) -> nn.Module:
    """Put an `NMLinear` in place of every ``nn.Linear`` of ``model``, in place, and return it.

    dense  names of layers that stay as they are, such as the last

    Raises Refusal, before anything is changed, where no layer is left, a name is no linear layer, or a layer's inputs
    are not a multiple of M.
    """
    chosen = chosen_layers("to_nm", model, nn.Linear, dense)
    odd = [f"{name} ({layer.in_features})" for name, layer in chosen.items() if layer.in_features % spec.m]
    if odd:
        wanted = f"inputs in multiples of {spec.m}"
        raise Refusal("to_nm", wanted, ", ".join(odd), "choose another M, or name these layers in dense")
    for name, layer in chosen.items():
        put(model, name, NMLinear(layer, spec))
    return model


def nm_masks(model: nn.Module) -> Masks:
    """The masks that the `NMLinear` layers of ``model`` read now. Raises Refusal for a model without one."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, NMLinear)}
    if not layers:
        raise Refusal("nm_masks", "a model with NMLinear layers", type(model).__name__, "make one with to_nm")
    return {f"{name}.weight": nm_mask(layer.weight, layer.spec.n, layer.spec.m) for name, layer in layers.items()}


__all__ = ["NMLinear", "NMSpec", "nm_masks", "to_nm"]
