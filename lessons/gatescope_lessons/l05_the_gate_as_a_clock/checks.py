"""Checks of lesson 05. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise

_K, _V, _T = 3, 4, 6


@exercise(
    hints=(
        "First forget, then write, then read: a * S, plus k v^T, times q.",
        "S is [K, V]. torch.outer(k, v) has that shape too, and q @ S reads one row of V numbers.",
        "S = a * S + torch.outer(k, v); return S, q @ S",
    ),
    afterword="The state has K times V numbers, however many tokens went in.",
)
def one_step(answer: Callable[..., Any]) -> str | None:
    """One token of gated linear attention."""
    S, q, k, v, a = drawn(_K, _V, seed=0), drawn(_K, seed=1), drawn(_K, seed=2), drawn(_V, seed=3), 0.9
    written = torch.outer(k, v)
    after = a * S + written
    given = answer(S.clone(), q, k, v, a)
    if not isinstance(given, tuple | list) or len(given) != 2:
        return "wanted two things: the new state and the output"
    wrong = compare(
        given[0],
        after,
        axes=("row", "column"),
        mistakes={
            "nothing was forgotten: the old state is not multiplied by a": S + written,
            "what was just written decays too; forget first, then write": a * (S + written),
            "the old state is gone: S = k v^T alone remembers one token": written,
            "the new part is weighted with 1 - a, as in a moving average; here it is written whole": (
                a * S + (1 - a) * written
            ),
        },
    )
    if wrong:
        return f"the state: {wrong}"
    wrong = compare(
        given[1],
        q @ after,
        axes=("channel",),
        mistakes={
            "you read the state before this token was written; a token may read itself": q @ S,
            "you read with the key; the query asks": k @ after,
        },
    )
    return f"the output: {wrong}" if wrong else None


@exercise(
    hints=(
        "After n tokens a memory is a^n of what it was. For which n is that one half?",
        "a^n = 1/2 means n log a = log 1/2.",
        "math.log(0.5) / math.log(a)",
    ),
    afterword="0.9 halves in 6.6 tokens: of what it heard 20 tokens ago it knows 12 %. For a 1,000 tokens take 0.9993.",
)
def half_life(answer: Callable[..., Any]) -> str | None:
    """Tokens after which half is left."""
    decays = np.array([0.5, 0.9, 0.958, 0.999])
    return compare(
        np.array([float(answer(a)) for a in decays]),
        np.log(0.5) / np.log(decays),
        axes=("decay",),
        mistakes={
            "this is 1 / (1 - a), the tokens until 1/e is left, nearly; half is asked for": 1 / (1 - decays),
            "this is log a / log 1/2, the number of halvings a token; turn it round": np.log(decays) / np.log(0.5),
            "the logarithm of 1/2 is missing: this is the time until 1/e is left": -1 / np.log(decays),
            "this is where 1 - a n reaches one half; a decay multiplies, it does not subtract": 0.5 / (1 - decays),
        },
    )


@exercise(
    hints=(
        "D[i, j] is the product of the decays of tokens j+1 to i: what was written at j has not yet decayed at j.",
        "With c = g.cumsum(0), the sum of g over j+1 ... i is c[i] - c[j].",
        "c = g.cumsum(0); (c[:, None] - c[None, :]).exp().tril()",
    ),
    afterword="That is a causal mask in shades of grey. With g = 0 it is the mask you know.",
)
def decay_matrix(answer: Callable[..., Any]) -> str | None:
    """The mask of the parallel form."""
    g = -drawn(_T, seed=4).abs()
    c = g.cumsum(0)
    right = (c[:, None] - c[None, :]).exp().tril()
    return compare(
        answer(g.clone()),
        right,
        axes=("query", "key"),
        mistakes={
            "these are the logarithms; take exp": (c[:, None] - c[None, :]).tril(),
            "the decay of token j itself is in it; what is written at j decays from j + 1 on": (
                (c[:, None] - c[None, :] + g[None, :]).exp().tril()
            ),
            "the future is not masked": (c[:, None] - c[None, :]).exp(),
            "the decays before j are in it as well: subtract their sum": c[:, None].exp().expand(-1, _T).tril(),
            "only one decay is in each entry; multiply those of all tokens between": (
                g[:, None].exp().expand(-1, _T).tril()
            ),
        },
    )


@exercise(
    hints=(
        "`record.accuracy` has dimensions variant, seed and setting. Select two variants, and keep the seeds.",
        "Settings are '4 pairs', '8 pairs' and '16 pairs', in this order.",
        "a = record.accuracy.sel(setting=['4 pairs', '8 pairs', '16 pairs']); "
        "a.sel(variant='softmax') - a.sel(variant='gla')",
    ),
    afterword="The state has eight rows. With four pairs it comes near a cache that grows, with eight it does not.",
)
def recall_gap(answer: Any, record: xr.Dataset) -> str | None:
    """Accuracy of softmax minus that of GLA by number of pairs, a seed at a time."""
    own = record.accuracy.sel(setting=["4 pairs", "8 pairs", "16 pairs"])
    softmax, gla = own.sel(variant="softmax"), own.sel(variant="gla")
    right = (softmax - gla).transpose("seed", "setting").values
    if isinstance(answer, xr.DataArray) and set(answer.dims) == {"seed", "setting"}:
        answer = answer.transpose("seed", "setting")
    return compare(
        answer,
        right,
        axes=("seed", "setting"),
        mistakes={
            "this is GLA minus softmax; turn it round": -right,
            "the seeds are averaged; keep them, they are your evidence": right.mean(0),
            "this is the ratio; the exercise asks for the difference": (softmax / gla)
            .transpose("seed", "setting")
            .values,
            "the settings are in another order: 4, 8, 16 pairs": right[:, ::-1],
        },
    )
