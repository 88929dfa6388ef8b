"""A trained model's MLPs replaced by adaptive computation modules, and what passes through their gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.adaptive import ACM, ACMSpec, LearnerGate
from gatescope.models import TinyLM

#: Module, its input and its choice to the choice that it shall make.
Edit = Callable[[ACM, Float[Tensor, "B T D"], Float[Tensor, "B T C"]], Float[Tensor, "B T C"]]


def acmize(model: TinyLM, spec: ACMSpec, *, seed: int = 0) -> TinyLM:
    """A copy of ``model`` with an untrained `ACM` in place of every MLP; all else keeps its weights.

    Raises Refusal for a model without MLPs.

    Source: Wójcik et al. 2023, Adaptive Computation Modules: module-wise distillation follows, see `mlp_pairs`.
    """
    copy, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    if all(block.mlp is None for block in copy.blocks):
        raise Refusal("acmize", "a model with MLPs", "none", "build it with an MLPSpec")
    for layer, block in enumerate(copy.blocks):
        if block.mlp is not None:
            block.add_module("mlp", ACM(spec, model.config.d_model, layer=layer, generator=generator))
    return copy


def with_spec(model: TinyLM, spec: ACMSpec) -> TinyLM:
    """A copy of an ACMized model under another spec: the same learners, and the same gates where both have gates.

    Raises Refusal for learners of another number or size.
    """
    copy = deepcopy(model)
    for layer, module in modules(model).items():
        before, after = (module.spec.learners, module.spec.hidden), (spec.learners, spec.hidden)
        if before != after:
            got = f"{before[0]} of {before[1]} in the model, {after[0]} of {after[1]} wanted"
            raise Refusal("with_spec", "learners as many and as wide", got, "distil a new model")
        new = ACM(spec, model.config.d_model, layer=layer, generator=torch.Generator().manual_seed(layer or 0))
        new = new.to(module.up)
        with torch.no_grad():
            new.up.copy_(module.up)
            new.down.copy_(module.down)
        if isinstance(new.gate, LearnerGate) and isinstance(module.gate, LearnerGate):
            new.gate.load_state_dict(module.gate.state_dict())
        copy.blocks[layer].add_module("mlp", new)  # type: ignore[index]  # acmize numbers its modules
    return copy


def modules(model: nn.Module) -> dict[int | None, ACM]:
    """The ACMs of a model, by layer. Raises Refusal where there is none."""
    found = {module.layer: module for module in model.modules() if isinstance(module, ACM)}
    if not found:
        raise Refusal("modules", "a model with ACMs", type(model).__name__, "make one with `acmize`")
    return found


@contextmanager
def gate_choices(model: nn.Module, edit: Edit | None = None) -> Iterator[list[Float[Tensor, "B T C"]]]:
    """Collect what every gate chose, in the order of the layers, until the block ends.

    edit  may replace a choice: the model goes on with what it returns, and that is what is collected
    """
    seen: list[Tensor] = []
    with _hooked([(module.gate, _collecting(module, seen, edit)) for module in modules(model).values()]):
        yield seen


def _collecting(module: ACM, seen: list[Tensor], edit: Edit | None) -> Callable[..., Tensor]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], choice: Tensor) -> Tensor:
        choice = choice if edit is None else edit(module, inputs[0], choice)
        seen.append(choice)
        return choice

    return hook


@torch.no_grad()
def mlp_pairs(model: TinyLM, tokens: Int[Tensor, "B T"]) -> list[tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]]:
    """What the MLP of every block reads and what it gives: the examples that an ACM in its place is distilled from."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pairs.append((inputs[0], output))

    with _hooked([(mlp, hook) for block in model.blocks if isinstance(mlp := block.mlp, nn.Module)]):
        model.hidden(tokens)
    return pairs


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["Edit", "acmize", "gate_choices", "mlp_pairs", "modules", "with_spec"]
