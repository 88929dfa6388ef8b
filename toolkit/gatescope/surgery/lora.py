"""Low-rank adapters by the `peft` library: what a conversion broke is repaired without touching the weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from gatescope.errors import Refusal
from gatescope.models import TinyLM


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRASpec:
    """Which maps learn, and how much.

        y = W x + (alpha / rank) B A x        A [rank, in] drawn, B [out, rank] 0: at first nothing changes

    rank     of the update of each map
    alpha    its factor times ``rank``
    targets  names of linear maps; the defaults are Liger's

    Raises Refusal for values below these bounds.

    Source: Hu et al. 2021, LoRA; rank 8, alpha 8 on q, k and v in Liger's code.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not self.targets:
            got = f"rank={self.rank}, alpha={self.alpha}, targets={self.targets}"
            raise Refusal("LoRASpec", "rank >= 1, alpha > 0 and a target", got, "Liger uses rank 8 on q, k and v")


def with_lora(model: TinyLM, spec: LoRASpec = LoRASpec(), *, seed: int = 0) -> TinyLM:
    """A copy of ``model`` with adapters, of which only they learn; it computes what ``model`` does until they have.

    Raises Refusal for a model without a map of that name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    if missing := sorted(set(spec.targets) - names):
        raise Refusal("with_lora", f"linear maps of {sorted(names)}", ", ".join(missing), "name other targets")
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.targets), lora_dropout=0.0)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return inject_adapter_in_model(config, copy.deepcopy(model))  # type: ignore[return-value]


@torch.no_grad()
def merged(model: TinyLM) -> TinyLM:
    """A plain model that computes what the adapted one does: every update added to its map, no adapters left.

    Raises Refusal for a model without adapters.
    """
    from peft.tuners.lora import LoraLayer

    adapted = copy.deepcopy(model)
    layers = [part for part in adapted.modules() if isinstance(part, LoraLayer)]
    if not layers:
        raise Refusal("merged", "a model with adapters", "none", "make one with with_lora")
    for layer in layers:
        layer.merge()
    weights = {
        name.replace(".base_layer.", "."): weight
        for name, weight in adapted.state_dict().items()
        if ".lora_" not in name
    }
    plain = TinyLM(model.config).to(model.embed.weight)
    plain.load_state_dict(weights)
    return plain.train(model.training)


__all__ = ["LoRASpec", "merged", "with_lora"]
