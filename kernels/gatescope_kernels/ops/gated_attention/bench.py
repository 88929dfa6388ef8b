"""What gated attention is timed against: torch's own attention, and the statistics computed from the matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gatescope_kernels.bench import Contest, normal, terms
from gatescope_kernels.ops.gated_attention.api import STATISTICS, gated_attention, gated_attention_with_stats
from gatescope_kernels.ops.gated_attention.problem import Visibility

_NAME = "gated_attention"


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """Attention with all statistics at growing length, a streaming window, a small grouped forward, a training step."""
    for T in (512, 1024) if quick else (512, 1024, 2048, 4096, 8192):
        yield _statistics(T, device)
    yield _streaming(1024 if quick else 4096, device)
    yield _grouped_forward(device)
    yield _training_step(device)


def _statistics(T: int, device: str) -> Contest:
    q, k, v = normal(3, 1, 12, T, 64, device=device)

    def ours() -> dict[str, Tensor]:
        out, stats = gated_attention_with_stats(q, k, v)
        found = {name: getattr(stats, name) for name in STATISTICS}
        return {"out": out, **found}

    def sdpa() -> dict[str, Tensor]:
        return {"out": scaled_dot_product_attention(q, k, v, is_causal=True)}

    def eager() -> dict[str, Tensor]:
        heads = [_eager_head(q[:, head], k[:, head], v[:, head]) for head in range(12)]
        return {name: torch.stack([results[name] for results in heads], 1) for name in heads[0]}

    return Contest(
        op=_NAME,
        task="attention and all statistics",
        shape=f"B=1 H=12 T={T} K=64",
        ours=ours,
        baselines={"torch SDPA, output alone": sdpa, "eager T x T, head by head": eager},
        **terms(device),
    )


def _eager_head(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    future = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT).mul_(1 / math.sqrt(q.shape[-1])).masked_fill_(future, -math.inf)
    a = scores.softmax(-1)
    results = {"out": a @ v, "max_logit": scores.amax(-1), "mass": a[..., :1], "key_mass": a.sum(-2)}
    return results | {"entropy": torch.special.entr(a).sum(-1)}


def _streaming(T: int, device: str) -> Contest:
    q, k, v = normal(3, 1, 12, T, 64, device=device)
    distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    mask = (distance >= 0) & ((distance < 256) | (torch.arange(T, device=device) < 4))
    return Contest(
        op=_NAME,
        task="sliding window of 256 with 4 sink tokens",
        shape=f"B=1 H=12 T={T} K=64",
        ours=lambda: {"out": gated_attention(q, k, v, visibility=Visibility(window=256, sink_tokens=4))},
        baselines={
            "torch SDPA with a T x T mask": lambda: {"out": scaled_dot_product_attention(q, k, v, attn_mask=mask)}
        },
        **terms(device),
    )


def _grouped_forward(device: str) -> Contest:
    q, k, v = (normal(1, heads, 171, 64, device=device) for heads in (9, 3, 3))

    def sdpa() -> dict[str, Tensor]:
        return {"out": scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)}

    return Contest(
        op=_NAME,
        task="one layer of a small language model, first-token mass",
        shape="B=1 H=9 G=3 T=171 K=64",
        ours=lambda: {"out": gated_attention_with_stats(q, k, v, stats=("mass",))[0]},
        baselines={"torch SDPA, output alone": sdpa},
        **terms(device),
    )


def _training_step(device: str) -> Contest:
    leaves = [x.requires_grad_() for x in normal(3, 32, 1, 48, 64, device=device).unbind()]
    q, k, v = leaves
    upstream = normal(32, 1, 48, 64, device=device)

    def step(out: Tensor) -> dict[str, Tensor]:
        grads = torch.autograd.grad(out, leaves, upstream)
        return {"out": out.detach()} | dict(zip(("dq", "dk", "dv"), grads, strict=True))

    return Contest(
        op=_NAME,
        task="forward and backward of a toy model",
        shape="B=32 H=1 T=48 K=64",
        ours=lambda: step(gated_attention(q, k, v)),
        baselines={"torch SDPA autograd": lambda: step(scaled_dot_product_attention(q, k, v, is_causal=True))},
        **terms(device),
    )
