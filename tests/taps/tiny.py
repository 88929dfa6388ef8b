"""One tiny random model of every family, and the hard setting."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gatescope.taps import Event, Handler, attached

VOCAB, MASSIVE = 37, 5
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_PLAIN = _ENDS | {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_TURNS = ["sliding_attention", "full_attention", "sliding_attention"]

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64, "vocab_size": VOCAB} | _ENDS,
    "gpt_neox": _PLAIN,
    "llama": _PLAIN,
    "mistral": _PLAIN | {"sliding_window": 4},
    "qwen3": _PLAIN | {"layer_types": _TURNS, "sliding_window": 4, "use_sliding_window": True},
    "gemma2": _PLAIN | {"layer_types": _TURNS, "sliding_window": 4, "attn_logit_softcapping": 80.0},
    "gemma3_text": _PLAIN | {"layer_types": _TURNS, "sliding_window": 4},
    "phi3": _PLAIN | {"sliding_window": 4},
    "bert": _PLAIN,
    "mixtral": _PLAIN | {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 4},
    "qwen3_moe": _PLAIN | _EXPERTS | {"mlp_only_layers": [1], "norm_topk_prob": True},
    "olmoe": _PLAIN | _EXPERTS | {"norm_topk_prob": False},
    "deepseek_v3": _PLAIN
    | {
        "head_dim": 4,
        "n_routed_experts": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 2,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 10,
        "routed_scaling_factor": 2.5,
    },
    "gpt_oss": _PLAIN
    | {
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "layer_types": _TURNS,
        "sliding_window": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "qwen3_next": _PLAIN
    | _EXPERTS
    | {
        "layer_types": ["linear_attention", "full_attention", "full_attention"],
        "shared_expert_intermediate_size": 16,
        "mlp_only_layers": [2],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


@functools.cache
def model_of(family: str, **changes: Any) -> Any:
    """The family's model, the same for every caller, in evaluation mode and with eager attention."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    with _without("fla", "causal_conv1d"):
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}
        config = AutoConfig.for_model(family, **CONFIGS[family] | lists)
        config._attn_implementation = "eager"
        model = (AutoModel if family == "bert" else AutoModelForCausalLM).from_config(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() > 1 or name.endswith(("sinks", "e_score_correction_bias", ".bias")):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


@functools.cache
def hard_model_of(family: str) -> Any:
    """A copy in the hard setting: token MASSIVE has one channel of 300, and queries are scaled up until some logit of
    every layer lies between 50 and 90."""
    from gatescope.taps import FAMILIES

    model = copy.deepcopy(model_of(family))
    tokens = tokens_of(2, 11)
    row = FAMILIES[family]
    with torch.no_grad():
        model.get_input_embeddings().weight[MASSIVE, 3] = 300.0
        for layer, block in enumerate(model.base_model.get_submodule(row.blocks)):
            if getattr(block, "linear_attn", None) is None:
                largest = max_logits(model, tokens)[layer]
                block.get_submodule(row.attention).scaling *= 60.0 / largest
    return model


def max_logits(model: Any, tokens: torch.Tensor) -> dict[int, float]:
    """The largest logit of each layer."""
    seen = Recorder({"attention"})
    with attached(model, seen):
        model(tokens)
    return {event.layer: float(event.stats.max_logit.max()) for event in seen.events}


class Recorder(Handler):
    """Keeps every event, with all statistics."""

    stats = frozenset({"entropy", "mass", "key_mass", "max_logit"})
    mass_keys = (0,)

    def __init__(self, sites: Iterable[str]) -> None:
        self.sites, self.events = frozenset(sites), []

    def watch(self, event: Event) -> None:
        self.events.append(event)

    def at(self, site: str) -> dict[int | None, Any]:
        """What passed at ``site``, by layer."""
        return {event.layer: event.value for event in self.events if event.site == site}


def tokens_of(B: int, T: int, seed: int = 0) -> torch.Tensor:
    """Random tokens [B T]; the first is MASSIVE."""
    tokens = torch.randint(3, VOCAB, (B, T), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = MASSIVE
    return tokens


def logits_of(output: Any) -> torch.Tensor:
    """Logits, or the last hidden state of a model without a head."""
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Packages of fused kernels look missing, so that linear layers run in torch whatever is installed."""
    before = {name: sys.modules.get(name) for name in packages}
    sys.modules.update(dict.fromkeys(packages))
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
