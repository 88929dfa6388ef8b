"""Models as others write them: SmolLM2 as a Hugging Face Llama, and a small model that knows nothing of taps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gatescope.layers.rope import rotate
from gatescope.models import TinyLM
from gatescope.models.smollm2 import Pretrained
from gatescope.models.tiny_lm import Block
from gatescope.taps import tap
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

#: q, k, v [B H T K] and the layer -> what the heads read [B H T K].
Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]

_RENAMED = {
    "embed.": "model.embed_tokens.",
    "blocks.": "model.layers.",
    "attention.": "self_attn.",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}


def as_llama(pretrained: Pretrained) -> Any:
    """The LlamaForCausalLM of transformers with the weights of ``pretrained``, shared and not copied."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    config, attention = pretrained.config, pretrained.config.attention
    with no_init_weights():
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab,
                hidden_size=config.d_model,
                intermediate_size=config.mlp.hidden,
                num_hidden_layers=config.n_layers,
                num_attention_heads=attention.n_heads,
                num_key_value_heads=attention.n_kv_heads,
                head_dim=attention.head_dim,
                max_position_embeddings=pretrained.context,
                rope_parameters={"rope_type": "default", "rope_theta": attention.rope_theta},
                rms_norm_eps=config.norm_eps,
                tie_word_embeddings=True,
                bos_token_id=pretrained.tokenizer.bos_id,
                eos_token_id=None,
                pad_token_id=pretrained.tokenizer.bos_id,
            )
        )
    weights = {}
    for name, weight in pretrained.model.state_dict().items():
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        weights["model.norm.weight" if name == "norm.weight" else name] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    llama.load_state_dict(weights, assign=True)
    return llama.eval().requires_grad_(False)


def by_hand(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
    """Causal attention with its T x T matrix written out."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v


class OwnBlock(nn.Module):
    """A block in plain PyTorch, with the modules of a block of a `TinyLM`."""

    def __init__(self, weights: Block) -> None:
        super().__init__()
        own = weights.attention
        assert weights.mlp is not None
        assert own.spec.rope_theta is not None
        self.attention_norm, self.mlp_norm = weights.attention_norm, weights.mlp_norm
        self.mlp: nn.Module = weights.mlp
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = own.q_proj, own.k_proj, own.v_proj, own.o_proj
        self.theta, self.width = own.spec.rope_theta, own.spec.head_dim

    def forward(self, x: Float[Tensor, "B T D"], attention: Attention, layer: int) -> Float[Tensor, "B T D"]:
        """The residual stream after attention and MLP."""
        h = self.attention_norm(x)
        q, k, v = (
            project(h).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        read = attention(rotate(q, self.theta), rotate(k, self.theta), v, layer)
        x = x + self.o_proj(read.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class OwnLM(nn.Module):
    """A small language model in plain PyTorch. Its attention is a function that it is given.

    weights    a `TinyLM` whose modules it uses
    attention  q, k, v, layer -> what the heads read
    """

    def __init__(self, weights: TinyLM, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.embed, self.norm, self.head = weights.embed, weights.norm, weights.head
        self.blocks = nn.ModuleList(OwnBlock(block) for block in weights.blocks)  # type: ignore[arg-type]

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T vocab"]:
        """Logits of the next token."""
        x = self.embed(tokens)
        for layer, block in enumerate(self.blocks):
            x = self.leaving(block(x, self.attention, layer), layer)
        weight = self.embed.weight if self.head is None else self.head.weight
        return functional.linear(self.norm(x), weight)

    def leaving(self, x: Float[Tensor, "B T D"], layer: int) -> Float[Tensor, "B T D"]:
        """The residual stream as it leaves a block."""
        return x


class TappedLM(OwnLM):
    """`OwnLM` that says which places it shows, and shows its residual stream. Its attention must call `attend`."""

    tap_sites = frozenset({"attention", "resid"})

    def leaving(self, x: Float[Tensor, "B T D"], layer: int) -> Float[Tensor, "B T D"]:
        """The residual stream, shown."""
        return tap("resid", x, layer=layer)
