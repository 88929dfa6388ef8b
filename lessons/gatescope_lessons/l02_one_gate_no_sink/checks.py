"""Checks of lesson 02. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from gatescope_kernels import gated_attention, gated_attention_with_stats

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l02_one_gate_no_sink import lab

_T, _D, _K = 6, 10, 4


@exercise(
    hints=(
        "The score is a sigmoid of a linear map of X: one score for every channel of Y, at every position.",
        "X is [T, D] and W is [D, K], so X @ W + b is [T, K], the shape of Y.",
        "Y * torch.sigmoid(X @ W + b)",
    ),
    afterword="That line is the whole change. The score of a position depends on its own X: on the query, not the key.",
)
def gated_output(answer: Callable[..., Any]) -> str | None:
    """Y * sigmoid(X W + b)."""
    y, x, w, b = drawn(_T, _K, seed=0), drawn(_T, _D, seed=1), drawn(_D, _K, seed=2), drawn(_K, seed=3)
    logits = x @ w + b
    return compare(
        answer(y, x, w, b),
        y * torch.sigmoid(logits),
        axes=("position", "channel"),
        mistakes={
            "this is the gate score; multiply Y by it": torch.sigmoid(logits),
            "the sigmoid is missing: Y is multiplied by the logits": y * logits,
            "the bias is missing": y * torch.sigmoid(x @ w),
            "the score is added; this gate multiplies": y + torch.sigmoid(logits),
            "softmax makes the scores of a position compete; a gate scores every channel by itself": (
                y * logits.softmax(-1)
            ),
            "the sigmoid is taken of the product; gate first, then multiply": torch.sigmoid(y * logits),
        },
    )


@exercise(
    hints=(
        "Write both softmaxes with D = sum_j exp(s_j): one divides by D, the other by 1 + D. What is their quotient?",
        "The quotient is D / (1 + D), and D = exp(LSE).",
        "exp(l) / (1 + exp(l)) is sigmoid(l): out * torch.sigmoid(lse)[:, None]",
    ),
    afterword="So off-by-one attention is ordinary attention behind a gate: one score a head, made from the LSE.",
)
def off_by_one(answer: Callable[..., Any]) -> str | None:
    """Softmax-off-by-one attention from the output and LSE of ordinary attention."""
    q, k, v = (0.5 * drawn(1, 1, _T, _K, seed=seed) for seed in (4, 5, 6))
    out, stats = gated_attention_with_stats(q, k, v, stats=(), keys=())
    out, lse = out[0, 0], stats.lse[0, 0]
    denominator = lse.exp()[:, None]
    return compare(
        answer(out, lse),
        gated_attention(q, k, v, sink=0.0)[0, 0],
        axes=("position", "channel"),
        mistakes={
            "you divided by 1 + exp(LSE) once more: `out` is divided by exp(LSE) already": out / (1 + denominator),
            "this multiplies by 1 + exp(LSE); the quotient is exp(LSE) / (1 + exp(LSE))": out * (1 + denominator),
            "LSE is the logarithm of the denominator, so use exp(LSE) in the quotient": (
                out * (lse / (1 + lse))[:, None]
            ),
            "this is the quotient; multiply the output by it": denominator / (1 + denominator),
            "this is the share that goes to nothing, 1 / (1 + exp(LSE)); the output keeps the rest": (
                out / (1 + denominator)
            ),
        },
    )


@exercise(
    hints=(
        "`record.first_attention` has dimensions variant, seed, layer and head. Which ones must go, and how?",
        "Take the largest head first: .max(('layer', 'head')). Then divide seed by seed.",
        "first = record.first_attention.max(('layer', 'head')); first.sel(variant='g1_element') / "
        "first.sel(variant='softmax')",
    ),
    afterword="Seeds are paired: both variants started from the same weights and saw the same batches.",
)
def sink_ratio(answer: Any, record: xr.Dataset) -> str | None:
    """First-token attention of the gated model over the baseline, one value a seed."""
    first = record.first_attention
    top = first.max(("layer", "head"))
    gated, plain = top.sel(variant="g1_element"), top.sel(variant="softmax")
    mean = first.mean(("layer", "head"))
    return compare(
        answer,
        gated / plain,
        axes=("seed",),
        mistakes={
            "this is the mean over heads; the lesson compares the head with the largest sink": (
                mean.sel(variant="g1_element") / mean.sel(variant="softmax")
            ),
            "this is softmax over gated; turn the ratio round": plain / gated,
            "the seeds are averaged; keep one ratio a seed, they are your evidence": (gated / plain).mean(),
            "means were divided, not seeds: keep one ratio a seed": gated.mean() / plain.mean(),
            "this is the difference; the exercise asks for the ratio": gated - plain,
        },
    )


@exercise(
    hints=(
        "Three conditions for *shown*: every seed below 1, the mean below 0.5, the interval without 1.",
        "Judge both variants from the figure above: where are the points, where is the interval?",
        "Compute lab.first(record, name) / lab.first(record, 'softmax') for both and look at the numbers.",
    ),
    afterword="A failed replication is a result: it says at which size, on which task, with how many seeds.",
)
def verdicts(answer: Any, record: xr.Dataset) -> str | None:
    """The learner's verdicts on 'lowers first-token attention to less than half', by variant."""
    for name, given in dict(answer).items():
        if name not in lab.VARIANTS or name == "softmax":
            return f"{name!r} is not a variant to compare with softmax"
        verdict = lab.judged(record, name)
        if given != verdict.outcome:
            ratio = lab.ratio_to_softmax(record, name)
            return f"{name}: you say {given!r}, but the ratios are {np.round(ratio, 2).tolist()}: {verdict.reason}"
    missing = {"g1_element", "off_by_one"} - set(answer)
    return f"still to judge: {', '.join(sorted(missing))}" if missing else None
