"""Bench rows of Scope: what statistics of attention add to a GPT-2, and what they cost from its matrices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from gatescope_kernels.bench import Contest
from torch import Tensor

from gatescope.probes import Entropy, Sinks
from gatescope.scope import Scope

#: Layers, heads and width of GPT-2 small. The vocabulary is small, so that the time is that of the blocks.
LAYERS, HEADS, WIDTH, VOCAB = 12, 12, 768, 256


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """GPT-2 small with random weights: against its plain forward pass, then against its own attention matrices.

    Yields nothing, and says so, where transformers is not installed.
    """
    if find_spec("transformers") is None:
        print("scope: transformers not installed: pip install transformers", file=sys.stderr)
        return
    for T in (128,) if quick else (1024, 8192):
        yield _contest("forward pass with all statistics of attention", T, device, {"plain forward, sdpa": _plain})
    T = 128 if quick else 1024
    yield _contest("statistics of attention", T, device, {"transformers output_attentions": _matrices})


def _contest(task: str, T: int, device: str, baselines: dict[str, Callable[[int, str], dict[str, Tensor]]]) -> Contest:
    return Contest(
        op="scope",
        task=task,
        shape=f"GPT-2 small B=1 H={HEADS} L={LAYERS} D={WIDTH} vocab={VOCAB} T={T}",
        dtype="float32",
        device=device,
        ours=lambda: _scoped(T, device),
        baselines={name: partial(run, T, device) for name, run in baselines.items()},
    )


@cache
def gpt2(T: int, device: str, attention: str = "sdpa") -> Any:
    """GPT-2 small with random weights and room for T tokens; the same weights under every attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"vocab_size": VOCAB, "n_positions": T, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    fixed: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    config = GPT2Config(**sizes, **fixed | {"attn_implementation": attention})
    if attention != "sdpa":
        with torch.device("meta"):
            model = GPT2LMHeadModel(config)
        model.load_state_dict(gpt2(T, device).state_dict(), assign=True)
        model.tie_weights()
        return model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn: Any = GPT2LMHeadModel(config)
    return drawn.to(device).eval()


@cache
def tokens(T: int, device: str) -> Tensor:
    """Random tokens [1 T]."""
    return torch.randint(VOCAB, (1, T), generator=torch.Generator().manual_seed(0)).to(device)


@torch.no_grad()
def _plain(T: int, device: str) -> dict[str, Tensor]:
    return {"logits": gpt2(T, device)(tokens(T, device)).logits}


@torch.no_grad()
def _scoped(T: int, device: str) -> dict[str, Tensor]:
    probes = (Sinks(), Entropy())
    with Scope(gpt2(T, device), probes):
        logits = gpt2(T, device)(tokens(T, device)).logits
    found = {str(name): torch.from_numpy(x.values) for probe in probes for name, x in probe.finalize().items()}
    return {"logits": logits} | found


@torch.no_grad()
def _matrices(T: int, device: str) -> dict[str, Tensor]:
    output = gpt2(T, device, "eager")(tokens(T, device), output_attentions=True)
    of_layers = [_statistics(attention[0]) for attention in output.attentions]
    return {"logits": output.logits} | {
        name: torch.stack([found[name] for found in of_layers]).cpu() for name in of_layers[0]
    }


def _statistics(a: Tensor) -> dict[str, Tensor]:
    """What Sinks and Entropy measure, from one causal attention matrix [H T T]."""
    T = a.shape[-1]
    count = torch.arange(1, T + 1, device=a.device)
    entropy = torch.special.entr(a).sum(-1)[:, 1:]
    return {
        "first_attention": a[:, 1:, 0].mean(-1),
        "sink_score": a[:, :, :1].mean(1),
        "sink_share": (a[:, :, :1].mean(1) > 0.3).float(),
        "key_mass": a.sum(1) / count.flip(0),
        "entropy": entropy.mean(-1),
        "entropy_normalised": (entropy / count[1:].log()).mean(-1),
    }


__all__ = ["contests"]
