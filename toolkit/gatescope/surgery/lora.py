"""Low-rank adapters: what a conversion broke is repaired by a few numbers beside the weights. `peft` trains them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.models import TinyLM

_PARTS = {".lora_A.default.weight": ".A", ".lora_B.default.weight": ".B"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRASpec:
    """Which maps learn, and how much.

        y = W x + (alpha / rank) B A x        A [rank, in] drawn, B [out, rank] 0: at first nothing changes

    rank     of the update of each map
    alpha    its factor times ``rank``; 0 leaves it out
    targets  names of linear maps; the defaults are Liger's

    Raises Refusal for values below these bounds.

    Source: Hu et al. 2021, LoRA; rank 8, alpha 8 on q, k and v in Liger's code.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha >= 0 or not self.targets:
            got = f"rank={self.rank}, alpha={self.alpha}, targets={self.targets}"
            raise Refusal("LoRASpec", "rank >= 1, alpha >= 0 and a target", got, "Liger uses rank 8 on q, k and v")


def with_lora(model: TinyLM, spec: LoRASpec = LoRASpec(), *, seed: int = 0) -> TinyLM:
    """A copy of ``model`` with adapters, of which only they learn; it computes what ``model`` does until they have.

    Raises Refusal for a model without a map of that name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if missing := sorted(set(spec.targets) - names):
        raise Refusal("with_lora", f"linear maps of {sorted(names)}", ", ".join(missing), "name other targets")
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.targets), lora_dropout=0.0)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return inject_adapter_in_model(config, copy.deepcopy(model))  # type: ignore[return-value]


def adapters(model: TinyLM) -> dict[str, Tensor]:
    """The adapters of a model that `with_lora` made: A and B under the names of their maps, "blocks.0....q_proj.A".

    Raises Refusal for a model without any.
    """
    found = {
        name.removesuffix(long) + short: weight.detach().clone()
        for name, weight in model.state_dict().items()
        for long, short in _PARTS.items()
        if name.endswith(long)
    }
    if not found:
        raise Refusal("adapters", "a model with adapters", "none", "make one with with_lora")
    return found


@torch.no_grad()
def merged(model: TinyLM, found: Mapping[str, Tensor], spec: LoRASpec = LoRASpec()) -> TinyLM:
    """A copy of a plain ``model`` with every adapter of ``found`` added to its map: W + (alpha / rank) B A.

    It computes what the adapted model does. Raises Refusal for adapters of maps that ``model`` does not have.
    """
    plain = copy.deepcopy(model)
    weights = dict(plain.named_parameters())
    for name in sorted({name.rsplit(".", 1)[0] for name in found}):
        A, B = found[f"{name}.A"], found[f"{name}.B"]
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.shape != (len(B), A.shape[1]):
            got = f"no {name}" if weight is None else f"{name} of shape {tuple(weight.shape)}"
            wanted = f"a map {name} of shape {(len(B), A.shape[1])}"
            raise Refusal("merged", wanted, got, "use the model that the adapters were trained on")
        weight.add_(B.to(weight) @ A.to(weight), alpha=spec.alpha / spec.rank)
    return plain


__all__ = ["LoRASpec", "adapters", "merged", "with_lora"]
