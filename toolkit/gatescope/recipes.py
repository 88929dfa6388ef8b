"""Settled sizes of the small experiments: one model config and one training spec for all variants of a comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gatescope.gates import GateSpec
from gatescope.layers.attention import Sink
from gatescope.models import AttentionSpec, LMConfig, MLPSpec
from gatescope.tasks import BigramBinding
from gatescope.train import TrainSpec


def bigram_config(gate: GateSpec | None = None, sink: Sink | None = None, n_heads: int = 1) -> LMConfig:
    """The model of the bigram-with-binding experiments: 2 layers, 1 head, D = 64, vocabulary of `BigramBinding()`.

    Two layers are the fewest that can form an induction head (Elhage et al. 2021); one head leaves it no other head to
    share the work with, so what it does when there is nothing to do is seen undiluted. The same for every variant, but
    where heads share a gate: then ``n_heads`` have the 64 channels between them.
    """
    return LMConfig(
        vocab=BigramBinding().vocab,
        d_model=64,
        n_layers=2,
        attention=AttentionSpec(n_heads=n_heads, n_kv_heads=n_heads, head_dim=64 // n_heads, gate=gate, sink=sink),
        mlp=MLPSpec("gelu", hidden=256),
    )


def bigram_train_spec(seed: int = 0, **changes: Any) -> TrainSpec:
    """How the bigram-with-binding models are trained, the same for every variant: 1,000 steps of 32 sequences, Adam at
    5e-3. ``changes`` replace fields of `TrainSpec`, such as steps or record_every."""
    return replace(TrainSpec(seed=seed), **changes)


__all__ = ["bigram_config", "bigram_train_spec"]
