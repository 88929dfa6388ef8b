"""Bench rows of Scope: what statistics of attention add to a GPT-2, and what they cost from its matrices, be they
transformers' own or TransformerLens's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from gatescope_kernels.bench import Contest, Peer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gatescope.probes import Entropy, Sinks
from gatescope.scope import Scope

#: Layers, heads and width of GPT-2 small. The vocabulary is small, so that the time is that of the blocks.
LAYERS, HEADS, WIDTH, VOCAB = 12, 12, 768, 256


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """GPT-2 small with random weights against its plain forward pass and against its own attention matrices; then one
    attention of its heads against its matrix.

    Yields nothing, and says so, where transformers is not installed.
    """
    if find_spec("transformers") is None:
        print("scope: transformers not installed: pip install transformers", file=sys.stderr)
        return
    for T in (128,) if quick else (1024, 8192):
        yield _contest("forward pass with all statistics of attention", T, device, {"plain forward, sdpa": _plain})
    T = 128 if quick else 1024
    lens = {
        "TransformerLens run_with_cache": partial(_cached, T, device, everything=True),
        "TransformerLens, patterns alone": partial(_cached, T, device, everything=False),
    }
    yield replace(
        _contest("statistics of attention", T, device, {"transformers output_attentions": _matrices}),
        peers={name: Peer("transformer-lens", "transformer_lens", run) for name, run in lens.items()},
    )
    yield _attention_step(256 if quick else 4096, device)


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


def _attention_step(T: int, device: str) -> Contest:
    q, k, v = torch.randn(3, 1, HEADS, T, 64, generator=torch.Generator().manual_seed(0)).to(device)
    return Contest(
        op="scope",
        task="one attention and its statistics",
        shape=f"B=1 H={HEADS} T={T} K=64",
        dtype="float32",
        device=device,
        ours=lambda: _watched_step(q, k, v),
        baselines={"transformers eager attention": lambda: _eager_step(q, k, v)},
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


def _scoped(T: int, device: str) -> dict[str, Tensor]:
    found = _seen(gpt2(T, device), tokens(T, device))
    return {"logits": found.pop("output").logits} | found


class _Attention(nn.Module):
    """A model that is one causal attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True)


def _watched_step(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    found = _seen(_Attention(), q, k, v)
    return {"out": found.pop("output")} | {name: x[0] for name, x in found.items()}


@torch.no_grad()
def _seen(model: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    probes = (Sinks(), Entropy())
    with Scope(model, probes):
        output = model(*inputs)
    return {"output": output} | {
        str(name): torch.from_numpy(x.values) for probe in probes for name, x in probe.finalize().items()
    }


@torch.no_grad()
def _eager_step(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    from transformers.models.gpt2.modeling_gpt2 import eager_attention_forward

    T = q.shape[2]
    mask = torch.full((T, T), torch.finfo(q.dtype).min, device=q.device).triu(1)
    out, matrices = eager_attention_forward(_Attention().eval(), q, k, v, mask)
    return {"out": out.transpose(1, 2)} | _statistics(matrices[0])


@torch.no_grad()
def _matrices(T: int, device: str) -> dict[str, Tensor]:
    output = gpt2(T, device, "eager")(tokens(T, device), output_attentions=True)
    return {"logits": output.logits} | _of_layers(attention[0] for attention in output.attentions)


@cache
def _bridge(T: int, device: str) -> Any:
    # In 4.0 TransformerLens replaced its own models by bridges to those of transformers.
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = gpt2.__wrapped__(T, device, "eager")  # one of its own: the bridge rebuilds it
    return build_bridge_from_module(model, architecture="GPT2LMHeadModel", hf_config=model.config)


@torch.no_grad()
def _cached(T: int, device: str, everything: bool) -> dict[str, Tensor]:
    wanted = None if everything else (lambda name: name.endswith("hook_pattern"))
    logits, cache = _bridge(T, device).run_with_cache(tokens(T, device), names_filter=wanted)
    patterns = (cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in range(LAYERS))
    return {"logits": logits} | _of_layers(patterns)


def _of_layers(matrices: Iterable[Tensor]) -> dict[str, Tensor]:
    found = [_statistics(matrix) for matrix in matrices]
    return {name: torch.stack([of_layer[name] for of_layer in found]).cpu() for name in found[0]}


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
