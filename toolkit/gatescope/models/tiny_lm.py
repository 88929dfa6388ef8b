"""A decoder-only language model in one file: llama's layout, small enough to train on a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gatescope import specs
from gatescope.errors import Refusal
from gatescope.layers import (
    MLP,
    Attention,
    AttentionSpec,
    LigerAttention,
    LigerSpec,
    LinearAttention,
    LinearAttentionSpec,
    MLPSpec,
    MoE,
    MoESpec,
)
from gatescope.layers.init import STD, embedding, linear
from gatescope.taps import tap

Mixer = AttentionSpec | LinearAttentionSpec | LigerSpec


@dataclass(frozen=True, slots=True)
class LMConfig:
    """Everything that fixes the function a `TinyLM` computes, its weights apart.

    vocab           token ids are 0..vocab-1
    d_model         D channels of the residual stream
    n_layers        L blocks
    attention       what mixes positions: one spec for all blocks, or a tuple with one for each (a hybrid)
    mlp             one MLP a block, routed experts, or None: blocks that only mix positions
    norm_eps        epsilon inside every RMSNorm
    tie_embeddings  the output head uses the embedding matrix
    init_std        standard deviation of initial weights, embedding and gates apart; 0.02 suits wide models, at
                    D = 32 a layer that starts with it hardly moves the stream, and 0.1 learns recall much sooner

    Raises Refusal for sizes below 1, an init_std that is not positive, and a tuple not as long as there are blocks.
    """

    vocab: int
    d_model: int
    n_layers: int
    attention: Mixer | tuple[Mixer, ...]
    mlp: MLPSpec | MoESpec | None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    init_std: float = STD

    def __post_init__(self) -> None:
        for name in ("vocab", "d_model", "n_layers"):
            if getattr(self, name) < 1:
                raise Refusal("LMConfig", f"{name} >= 1", f"{getattr(self, name)}", "pass a positive size")
        if not self.init_std > 0:
            raise Refusal("LMConfig", "init_std > 0", f"{self.init_std}", f"the usual value is {STD}")
        if len(self.mixers) != self.n_layers:
            got = f"{len(self.mixers)} for {self.n_layers} blocks"
            raise Refusal("LMConfig", "an attention spec for each block", got, "repeat the pattern, or pass one spec")

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The attention spec of every block."""
        return self.attention if isinstance(self.attention, tuple) else (self.attention,) * self.n_layers

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can carry."""
        return specs.to_dict(self)

    @classmethod
    def from_dict(cls, data: Any) -> LMConfig:
        """The inverse of `to_dict`, strict: unknown or missing keys and wrong types raise Refusal."""
        return specs.from_dict(cls, data)


class Block(nn.Module):
    """X + Attention(RMSNorm(X)), then + MLP(RMSNorm(.)), where there is one: llama's pre-norm block.

    Shows what it adds at "attention_update" and "mlp_update", and the stream at "resid" on leaving.
    """

    def __init__(self, config: LMConfig, layer: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        mixer = config.mixers[layer]
        self.attention: Attention | LinearAttention
        if isinstance(mixer, AttentionSpec):
            self.attention = Attention(mixer, config.d_model, layer=layer, generator=generator)
        elif isinstance(mixer, LigerSpec):
            self.attention = LigerAttention(mixer, config.d_model, layer=layer, generator=generator)
        else:
            self.attention = LinearAttention(mixer, config.d_model, layer=layer, generator=generator)
        self.mlp: MLP | MoE | None = None
        if config.mlp is None:
            return
        self.mlp_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        if isinstance(config.mlp, MLPSpec):
            self.mlp = MLP(config.mlp, config.d_model, layer=layer, generator=generator)
        else:
            self.mlp = MoE(config.mlp, config.d_model, layer=layer, generator=generator)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The residual stream after this block."""
        update = self.attention(self.attention_norm(x), key_mask, documents)
        x = x + tap("attention_update", update, layer=self.layer)
        if self.mlp is not None:
            x = x + tap("mlp_update", self.mlp(self.mlp_norm(x)), layer=self.layer)
        return tap("resid", x, layer=self.layer)


class TinyLM(nn.Module):
    """Tokens to next-token logits, every named place shown to taps.

    Weights are drawn from ``init_seed`` alone: the same seed gives the same weights, and models of one seed that differ
    only in their gate or sink share all other weights. They are N(0, 0.02^2), an embedding that is not also the output
    head N(0, 1): tokens then stand out in the residual stream from the first step, and small models learn induction
    many times sooner. Raises Refusal for tokens the model cannot read.
    """

    def __init__(self, config: LMConfig, *, init_seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(init_seed)
        self.embed = embedding(config.vocab, config.d_model, generator, STD if config.tie_embeddings else 1.0)
        self.blocks = nn.ModuleList(Block(config, layer, generator=generator) for layer in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = None if config.tie_embeddings else linear(config.d_model, config.vocab, generator)
        self._rescale(config.init_std / STD)

    @torch.no_grad()
    def _rescale(self, factor: float) -> None:
        """Linear maps as if drawn with another standard deviation."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and factor != 1:
                module.weight.mul_(factor)

    @property
    def tap_sites(self) -> frozenset[str]:
        """The sites of taps.SITES that a forward pass shows."""
        mlp = self.config.mlp
        sites = {"tokens", "key_mask", "embed", "attention_update", "resid", "logits"}
        sites |= frozenset().union(*(mixer.tap_sites for mixer in self.config.mixers))
        if mlp is not None:
            sites |= {"mlp_update", "mlp" if isinstance(mlp, MLPSpec) else "router"}
        return frozenset(sites)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T vocab"]:
        """Logits of the token after each position; tokens where ``key_mask`` is False are read by no other.

        documents  ids of sequences packed one after another, which do not decrease along T; a token reads its own
                   document alone, as if the others were not there
        """
        return tap("logits", self.readout(self.hidden(tokens, key_mask, documents)))

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The residual stream after the last block: what `forward` gives to `readout`."""
        tokens = tap("tokens", tokens)
        self._check(tokens)
        key_mask = tap("key_mask", key_mask)
        x = tap("embed", self.embed(tokens))
        for block in self.blocks:
            x = block(x, key_mask, documents)
        return x

    def readout(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B vocab"]:
        """Logits read from a residual stream: final norm, then output head. Of any layer it is the logit lens."""
        weight = self.embed.weight if self.head is None else self.head.weight
        return functional.linear(self.norm(hidden), weight)

    def _check(self, tokens: Tensor) -> None:
        if tokens.dtype not in (torch.int64, torch.int32):
            raise Refusal("TinyLM", "token ids of dtype int64 or int32", f"{tokens.dtype}", "pass tokens.long()")
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise Refusal(
                "TinyLM",
                "token ids [B T] with at least one sequence and one token",
                f"shape {tuple(tokens.shape)}",
                "pass tokens[None] for a single sequence" if tokens.ndim == 1 and len(tokens) else "pass some text",
            )
        low, high = (int(bound) for bound in torch.aminmax(tokens))
        if low < 0 or high >= self.config.vocab:
            raise Refusal(
                "TinyLM",
                f"token ids in 0..{self.config.vocab - 1}",
                f"ids from {low} to {high}",
                "tokenise with the vocabulary this model was built for",
            )
