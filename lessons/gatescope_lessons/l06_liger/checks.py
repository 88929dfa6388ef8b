"""Checks of lesson 06. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise

_T, _K = 5, 4


@exercise(
    hints=(
        "A sigmoid makes a score of a key; the power 1/16 brings it near 1.",
        "sigmoid(k) ** (1 / 16). The key is the projection itself: no softmax, no RoPE.",
        "return torch.sigmoid(k) ** (1 / 16)",
    ),
    afterword="No weight was added. A key of 0 gives 0.958, a half-life of 16 tokens, before anything has learnt.",
)
def gate_from_key(answer: Callable[..., Any]) -> str | None:
    """The gate that costs nothing."""
    k = 3 * drawn(_T, _K, seed=0)
    score = torch.sigmoid(k)
    return compare(
        answer(k.clone()),
        score ** (1 / 16),
        axes=("token", "channel"),
        mistakes={
            "the power 1/16 is missing: a key of 0 would forget half of the state at every token": score,
            "these are the logarithms of the scores; take exp": torch.nn.functional.logsigmoid(k) / 16,
            "the 16 belongs outside of the sigmoid: sigmoid(k)^(1/16), not sigmoid(k / 16)": torch.sigmoid(k / 16),
            "a sixteenth of a score is not its sixteenth root": score / 16,
            "you took the feature map, which makes the key to write with; the gate is made from the key as projected": (
                k.softmax(-1)
            ),
            "you put the feature map in front: the gate reads the key as projected": (
                torch.sigmoid(k.softmax(-1)) ** (1 / 16)
            ),
            "pooled over the head, as the paper draws it; here every channel has its own score": (
                torch.sigmoid(k.mean(-1, keepdim=True)).expand_as(k) ** (1 / 16)
            ),
        },
    )


@exercise(
    hints=(
        "Write first, then read: a * S + outer(phi(k), v), and phi(q) reads it.",
        "The window is plain softmax attention: weights softmax(keys @ q / sqrt(K)) times the values.",
        "S = a[:, None] * S + torch.outer(k.softmax(-1), v); window = (keys @ q / K**0.5).softmax(-1) @ values; "
        "return S, 0.5 * (q.softmax(-1) @ S) + 0.5 * window",
    ),
    afterword="What is carried on is S and the window: the same size after ten tokens and after ten million.",
)
def liger_step(answer: Callable[..., Any]) -> str | None:
    """One token of Liger Attention."""
    S, q, k, v = drawn(_K, _K, seed=1), drawn(_K, seed=2), drawn(_K, seed=3), drawn(_K, seed=4)
    keys, values, a = drawn(3, _K, seed=5), drawn(3, _K, seed=6), torch.sigmoid(k) ** (1 / 16)
    keys[-1], values[-1] = k, v
    after = a[:, None] * S + torch.outer(k.softmax(-1), v)
    window = (keys @ q / _K**0.5).softmax(-1) @ values
    read = q.softmax(-1) @ after
    given = answer(S.clone(), q, k, v, a, keys, values)
    if not isinstance(given, tuple | list) or len(given) != 2:
        return "wanted two things: the new state and the output"
    wrong = compare(
        given[0],
        after,
        axes=("row", "column"),
        mistakes={
            "the key is written as it is; phi(k) = softmax(k) is what the state gets": (
                a[:, None] * S + torch.outer(k, v)
            ),
            "each row of S has its own score: a[:, None] * S, not a * S": a * S + torch.outer(k.softmax(-1), v),
            "nothing was forgotten": S + torch.outer(k.softmax(-1), v),
        },
    )
    if wrong:
        return f"the state: {wrong}"
    wrong = compare(
        given[1],
        0.5 * read + 0.5 * window,
        axes=("channel",),
        mistakes={
            "the halves are added whole; each counts one half": read + window,
            "the window is missing": read,
            "the recurrent half is missing": window,
            "you read with q as it is; phi(q) = softmax(q) reads the state": 0.5 * (q @ after) + 0.5 * window,
            "you read the state before this token was written": 0.5 * (q.softmax(-1) @ S) + 0.5 * window,
            "the logits of the window are not divided by sqrt(K)": (0.5 * read + 0.5 * (keys @ q).softmax(-1) @ values),
            "the window reads with phi(q); its softmax is over keys, and q is what it was": (
                0.5 * read + 0.5 * (keys @ q.softmax(-1) / _K**0.5).softmax(-1) @ values
            ),
        },
    )
    return f"the output: {wrong}" if wrong else None


@exercise(
    hints=(
        "A cache holds a key and a value a token and head: 2 H K T numbers.",
        "Liger holds H states of K times K, and a key and a value for each token of the window.",
        "2 H K T = H K^2 + 2 H K w, so T = K / 2 + w",
    ),
    afterword="From there on the cache is larger, and it goes on growing. With K = 64 and w = 64 that is 96 tokens.",
)
def break_even(answer: Callable[..., Any]) -> str | None:
    """The length at which a cache of keys and values is as large as what Liger carries."""
    H, K, w = (np.array(sizes, dtype=float) for sizes in ([1, 8, 4], [64, 64, 16], [64, 32, 8]))
    return compare(
        np.array([float(answer(int(h), int(k), int(n))) for h, k, n in zip(H, K, w, strict=True)]),
        K / 2 + w,
        axes=("case",),
        mistakes={
            "the cache holds values as well as keys": K + 2 * w,
            "you left the values out everywhere": K + w,
            "the window is missing: its keys and values are carried, too": K / 2,
            "the state is missing": w,
            "all heads have a state and a cache: H cancels": H * K / 2 + w,
            "a state has K rows and K columns": 0.5 + w,
        },
    )


@exercise(
    hints=(
        "`record.accuracy` and `record.loss` have dims variant and seed. Select two variants, and keep the seeds.",
        "Better means a higher accuracy, but a lower loss.",
        "record.accuracy.sel(variant='liger') - record.accuracy.sel(variant='window'), "
        "record.loss.sel(variant='window') - record.loss.sel(variant='liger')",
    ),
    afterword="The same half, two verdicts. Without the control, the second task would have looked like a success.",
)
def recurrent_gain(answer: Any, record: xr.Dataset) -> str | None:
    """What the recurrent half adds to its window, on both tasks."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "wanted two things: the gain in accuracy and the gain in loss"
    recall = (record.accuracy.sel(variant="liger") - record.accuracy.sel(variant="window")).values
    loss = (record.loss.sel(variant="window") - record.loss.sel(variant="liger")).values
    softmax = (record.accuracy.sel(variant="liger") - record.accuracy.sel(variant="softmax")).values
    mistakes: dict[str, dict[str, object]] = {
        "accuracy": {
            "this is the window minus Liger; turn it round": -recall,
            "the seeds are averaged; keep them, they are your evidence": recall.mean(),
            "you compared with the trained model; the control is the window alone": softmax,
        },
        "loss": {
            "a lower loss is better: the gain is the window's loss minus Liger's": -loss,
            "the seeds are averaged; keep them, they are your evidence": loss.mean(),
        },
    }
    for name, given, right in zip(mistakes, answer, (recall, loss), strict=True):
        wrong = compare(given, right, axes=("seed",), mistakes=mistakes[name])
        if wrong:
            return f"the gain in {name}: {wrong}"
    return None
