"""What the patients are tried on: attention of SmolLM2 and of models of lesson 02, the router of lesson 08, the seeds
of lesson 02, and layers whose collapse is planted. A pass of a model is made once and kept."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from gatescope.binding import held_out
from gatescope.clustered import EXPERTS
from gatescope.clustered import held_out as samples
from gatescope.models import TinyLM
from gatescope.models.smollm2 import load_smollm2
from gatescope.probes import AttentionRows
from gatescope.taps import attached
from gatescope.tasks.text import story
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_lessons.compare import drawn
from gatescope_lessons.l02_one_gate_no_sink import lab as gated
from gatescope_lessons.l04_entropy_and_energy.heads import Kept
from gatescope_lessons.l08_routing import lab as routed

#: Tokens of the story that are read, and how many of them stand before the padding.
LENGTH, TEXT = 128, 32
#: Sequences of bigram-binding that the first column is averaged over.
SEQUENCES = 16
#: Layers, tokens and experts of the planted routers.
LAYERS, TOKENS = 8, 256
_COLLAPSE = 8.0
#: The two variants of lesson 02, and what is compared, where pairing by seed matters.
PAIRED = ("massive_ratio", "g1_element", "g1_head")

Inputs = dict[str, Any]


def _read(model: TinyLM, tokens: Int[Tensor, "1 T"]) -> AttentionRows:
    rows = AttentionRows()
    with torch.no_grad(), attached(model, rows):
        model(tokens)
    return rows


@cache
def row_entropies() -> Float[Tensor, " T"]:
    """Entropy of every row of attention on a story, nats, mean over SmolLM2's layers and heads."""
    pretrained = load_smollm2()
    rows = _read(pretrained.model, pretrained.tokenizer.prepare(story())[:, :LENGTH])
    return torch.stack([rows.layer(layer).entropy for layer in rows.layers]).double().mean((0, 1))


@cache
def padded_attention() -> Float[Tensor, " T"]:
    """A[i, 0] of a text of TEXT tokens padded with <|endoftext|> to LENGTH, mean over SmolLM2's layers and heads.

    Causal: a shorter padding gives the same rows, only fewer.
    """
    pretrained = load_smollm2()
    text = pretrained.tokenizer.prepare(story())[:, :TEXT]
    end = pretrained.tokenizer.encode("<|endoftext|>")
    rows = _read(pretrained.model, torch.cat([text, end.expand(1, LENGTH - TEXT)], 1))
    return torch.stack([rows.layer(layer).first for layer in rows.layers]).double().mean((0, 1))


@cache
def gated_first() -> Float[Tensor, " T"]:
    """A[i, 0] of the last layer of a model with a gate after attention, mean over SEQUENCES held-out sequences."""
    model = gated.load("g1_element")
    reads = [_read(model, one[None]) for one in held_out(SEQUENCES)[0]]
    return torch.stack([rows.layer(rows.layers[-1]).first.mean(0) for rows in reads]).double().mean(0)


@cache
def sink_scores() -> Float[Tensor, "T T"]:
    """Scores of the last layer of a model with plain softmax on one sequence, minus infinity in the future."""
    model = gated.load("softmax")
    kept = Kept(len(model.blocks) - 1)
    with torch.no_grad(), attached(model, kept):
        model(held_out(1)[0])
    assert kept.scores is not None
    scores = kept.scores[0]
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)


@cache
def router_logits() -> Float[Tensor, "N E"]:
    """Logits of the trained top-1 router of lesson 08 on held-out samples."""
    with torch.no_grad():
        return routed.load("top-1").experts.router(samples()[0]).double()


def collapsed(layers: int) -> Inputs:
    """Probabilities and choices of LAYERS routers; the first ``layers`` send all tokens to one expert each, its own."""
    logits = drawn(LAYERS, TOKENS, EXPERTS, seed=14)
    own = torch.arange(layers)
    logits[own, :, own] += _COLLAPSE
    p = logits.softmax(-1)
    return {"p": p, "choice": p.argmax(-1)}


def batches(size: int) -> Inputs:
    """The experts that the trained router chooses, in batches of ``size`` samples."""
    return {"choice": router_logits().argmax(-1).view(-1, size), "experts": EXPERTS}


def seeds(shared: float | int) -> Inputs:
    """A number of two variants of lesson 02, seed by seed; what both runs of a seed share is taken ``shared`` times."""
    name, *variants = PAIRED
    record = gated.published()[name]
    dims = [dim for dim in record.dims if dim not in ("variant", "seed")]
    a, b = (torch.as_tensor(record.sel(variant=variant).mean(dims).values).double() for variant in variants)
    both = (a + b) / 2
    more = (shared - 1) * (both - both.mean())
    return {"a": a + more, "b": b + more}


def unrelated_seeds() -> Inputs:
    """Two variants whose seeds share nothing: what they add to the two means is uncorrelated."""
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    other = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    return {"a": 5 + wave, "b": 6 + other}
