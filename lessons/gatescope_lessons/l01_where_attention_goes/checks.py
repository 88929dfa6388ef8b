"""Checks of lesson 01. Each knows the mistakes people make and names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import xarray as xr
from gatescope_kernels import gated_attention_with_stats
from jaxtyping import Float
from torch import Tensor

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise

_T, _K = 12, 16


def _head() -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"], Float[Tensor, " T"]]:
    """Queries, keys and LSE of one causal head with a sink on its first key."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(_T, _K, generator=generator, dtype=torch.float64) for _ in range(2))
    k[0] += 0.7 * q.mean(0)
    _, stats = gated_attention_with_stats(q[None, None], k[None, None], k[None, None], stats=(), keys=())
    return q, k, stats.lse[0, 0]


@exercise(
    hints=(
        "Softmax divides by the sum of exponentials. The log of that sum is the LSE of the row: you are given it.",
        "A[i, 0] = exp(score[i, 0] - lse[i]) with score[i, 0] = scale * q[i] . k[0]: one number a row, no matrix.",
        "weights = (scale * q @ k[0] - lse).exp(), then weights[1:].mean()",
    ),
    afterword="O(T) numbers instead of T x T: at 8,192 tokens, 32 kB a head instead of 268 MB.",
)
def first_attention(answer: Callable[..., Any]) -> str | None:
    """F-Attn of one head from q, k and the LSE, rows from the second."""
    q, k, lse = _head()
    scale = 1 / math.sqrt(_K)
    logits = scale * q @ k[0]
    weights = (logits - lse).exp()
    return compare(
        answer(q, k, lse, scale),
        weights[1:].mean(),
        mistakes={
            "row 0 is counted; it reads only itself, so its weight is 1 whatever the model does": weights.mean(),
            "the scale 1/sqrt(K) is missing from the scores": (q @ k[0] - lse).exp()[1:].mean(),
            "these are the weights row by row; take their mean": weights[1:],
            "these are scores minus LSE, the logarithms of the weights; take exp": (logits - lse)[1:].mean(),
            "you divided by the LSE; it is a logarithm: subtract it inside the exp": (logits.exp() / lse)[1:].mean(),
        },
    )


@exercise(
    hints=(
        "Row i of a causal head sees i + 1 keys. What is the largest entropy it can have?",
        "Uniform attention over n keys has entropy log n, so divide row i by log(i + 1).",
        "Row 0 sees one key: log 1 = 0. Leave it out: entropy[1:] / torch.arange(2, T + 1).log()",
    ),
    afterword="Dividing every row by log T would make the early rows look focused just because they see little.",
)
def normalised_entropy(answer: Callable[..., Any]) -> str | None:
    """Row entropies of a causal head as shares of what they can be at most."""
    q, k, _ = _head()
    _, stats = gated_attention_with_stats(q[None, None], k[None, None], k[None, None], stats=("entropy",), keys=())
    entropy = stats.entropy[0, 0]
    rows = torch.arange(1, _T + 1, dtype=entropy.dtype)
    right = entropy[1:] / rows[1:].log()
    given = answer(entropy)
    if isinstance(given, Tensor) and given.shape == entropy.shape and torch.allclose(given[1:], right):
        return "row 0 is still there: it sees one key, and 0 / log 1 is not a number; start at row 1"
    return compare(
        given,
        right,
        axes=("row, counted from the second",),
        mistakes={
            "every row is divided by log T; row i sees only i + 1 keys": entropy[1:] / math.log(_T),
            "every row is divided by log T, and row 0 is still there": entropy / math.log(_T),
            "row i is divided by log i; it sees i + 1 keys, itself included": entropy[2:] / rows[1:-1].log(),
            "the entropies are divided by the number of keys; the largest entropy over n keys is log n": (
                entropy[1:] / rows[1:]
            ),
            "this is the mean; the exercise asks for one value a row": right.mean(),
        },
    )


def _hidden() -> Float[Tensor, "T D"]:
    """A hidden state with two massive activations, one of them negative, and near misses of both conditions."""
    h = torch.randn(10, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.15
    h[0, 7], h[0, 30], h[4, 7] = 900.0, -400.0, 60.0
    h[6] *= 8
    return h


@exercise(
    hints=(
        "Two conditions: the magnitude is above 100, and at least 1,000 times the median magnitude.",
        "The median is over the whole layer, all tokens and all dimensions: h.abs().median().",
        "(m > 100) & (m >= 1000 * m.median()) with m = h.abs(); .nonzero() gives rows [token, dim].",
    ),
    afterword="Both conditions matter: without the first, a layer of tiny numbers would be full of massive ones.",
)
def massive_activations(answer: Callable[..., Any]) -> str | None:
    """The (token, dim) of every massive activation by Sun et al.'s rule."""
    h = _hidden()
    m = h.abs()
    found = answer(h.clone())
    try:
        pairs = {(int(token), int(dim)) for token, dim in found}
    except (TypeError, ValueError):
        return f"wanted pairs (token, dim), got {type(found).__name__}: {found!r:.80}"
    right = {(0, 7), (0, 30)}
    if pairs == right:
        return None
    if pairs == {(dim, token) for token, dim in right}:
        return "your pairs are (dim, token); the exercise asks for (token, dim)"
    if (0, 30) not in pairs and (0, 7) in pairs:
        return "you missed (0, 30), whose value is -400: massive is about the magnitude, so take .abs() first"
    relative = {tuple(pair) for pair in (m >= 1000 * m.median()).nonzero().tolist()}
    if pairs >= right and pairs == {tuple(pair) for pair in (m >= 100 * m.median()).nonzero().tolist()}:
        return "you used 100 times the median; the rule is above 100 and at least 1,000 times the median"
    extra, missed = sorted(pairs - right), sorted(right - pairs)
    said = [f"{extra[:3]} are not massive" if extra else "", f"{missed[:3]} are missing" if missed else ""]
    return "; ".join(filter(None, said)) + f" (the relative condition alone gives {sorted(relative)[:4]})"


@exercise(
    hints=(
        "`key_mass` says how much attention each key receives from the rows that can see it.",
        "Average it over layers and heads, then find the largest. The masked key itself receives nothing.",
        "int(masked.key_mass.mean(('layer', 'head')).argmax('token'))",
    ),
    afterword="The sink did not vanish: softmax weights must sum to 1, so they moved to the next best place.",
)
def where_the_sink_went(answer: Any, masked: xr.Dataset) -> str | None:
    """The token that receives most attention once the first key is hidden."""
    mass = masked.key_mass.mean(("layer", "head"))
    right = int(mass.fillna(-1).argmax("token"))
    try:
        token = int(answer)
    except (TypeError, ValueError):
        return f"wanted the position of a token, a whole number, got {type(answer).__name__}"
    if token == right:
        return None
    if token == 0:
        return "token 0 is the one you hid: its key_mass is 0 or NaN"
    if not 0 <= token < masked.sizes["token"]:
        return f"there are {masked.sizes['token']} tokens, counted from 0"
    got, most = float(mass[token]), float(mass[right])
    return f"token {token} receives {got:.3f} of the attention that can reach it; another receives {most:.3f}"
