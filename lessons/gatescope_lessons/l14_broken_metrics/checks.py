"""Checks of lesson 14: each repair meets inputs whose answer is known, and the first one it fails says what is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l14_broken_metrics import broken, sound

_Answer = Callable[..., Any]


def _uniform(length: int) -> Float[Tensor, " T"]:
    """A[i, 0] of uniform causal attention."""
    return 1 / torch.arange(1, length + 1, dtype=torch.float64)


@exercise(
    hints=(
        "Two faults. Row 0 sees one key and gives it everything, whatever the head does. And row i would give the "
        "first token something even if it did not care.",
        "Row i, counted from 0, sees i + 1 keys: uniform attention gives each 1 / (i + 1).",
        "visible = torch.arange(2, len(first) + 1); (first[1:] - 1 / visible).mean()",
    ),
    afterword="0 for a head that does not care, at every length. `Sinks` keeps the two parts apart: the number, rows "
    "from the second, and its baseline.",
)
def first_attention(answer: _Answer) -> str | None:
    """Attention to the first token beyond uniform, on uniform attention and on a head with a sink."""
    for length in (4, 64):
        uniform = _uniform(length)
        weak = uniform + 0.6 * (1 - uniform) * drawn(length, seed=length).sigmoid()
        for name, first in (("uniform attention", uniform), ("a head with a sink", weak)):
            if wrong := _beyond_uniform(answer(first.clone()), first):
                return f"{name}, T = {length}: {wrong}"
    return None


def _beyond_uniform(found: Any, first: Float[Tensor, " T"]) -> str | None:
    length, uniform, later = len(first), _uniform(len(first)), first[1:]
    before = torch.arange(1, length)
    return compare(
        found,
        sound.first_attention(first),
        mistakes={
            "this is the patient as it came in: row 0 counts, and so does what uniform attention gives": first.mean(),
            "row 0 is out, but uniform attention still scores: short sequences look like sinks": later.mean(),
            "the baseline is 1 / T for every row, right for the last alone; row i sees i + 1 keys": (
                later.mean() - 1 / length
            ),
            "row i is compared with 1 / i; it sees i + 1 keys, itself included": (later - 1 / before).mean(),
            "row 0 is in the baseline (H_T / T) and not in the mean: both over the same rows": (
                later.mean() - uniform.mean()
            ),
            "row 0 is in the mean and not in the baseline: both over the same rows": first.mean() - uniform[1:].mean(),
            "row 0 still counts: beyond uniform it is 0 and pulls the mean down": (first - uniform).mean(),
            "this is the ratio to uniform attention, which is 1 for a head that does not care; subtract": (
                later.mean() / uniform[1:].mean()
            ),
            "these are the rows; take their mean": later - uniform[1:],
        },
    )


_LENGTHS = (5, 2, 3)


def _padded(padding: float) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    values = drawn(len(_LENGTHS), max(_LENGTHS), seed=3)
    text = torch.arange(max(_LENGTHS)) < torch.tensor(_LENGTHS)[:, None]
    return torch.where(text, values, padding), text


@exercise(
    hints=(
        "Which places of the batch are text? `text` says so.",
        "The mean over text is a sum over text divided by how many tokens of text there are.",
        "values[text].mean()",
    ),
    afterword="A token counts once, however long the batch. A mean of means over sequences is another number, and a "
    "legitimate one: say which.",
)
def mean_over_tokens(answer: _Answer) -> str | None:
    """The mean over text of a padded batch."""
    values, text = _padded(4.0)
    kept = torch.where(text, values, 0.0)
    wrong = compare(
        answer(values.clone(), text.clone()),
        values[text].mean(),
        mistakes={
            "this is the patient as it came in: padding is in the sum and in the count": values.mean(),
            "padding is out of the sum but still in the count": kept.sum() / text.numel(),
            "this is the mean over padding alone; True is text": values[~text].mean(),
            "every sequence counts alike here, so a token of a short one counts more; the mean is over tokens": (
                kept.sum(1) / text.sum(1)
            ).mean(),
            "this is the sum; divide by the tokens of text": kept.sum(),
            "this is the mean of the longest sequence alone": values[0].mean(),
            "these are the means of the sequences; the exercise asks for one number": kept.sum(1) / text.sum(1),
        },
    )
    if wrong:
        return wrong
    values, text = _padded(math.nan)
    again = torch.as_tensor(answer(values, text.clone()), dtype=torch.float64)
    if again.isnan().any():
        return (
            "right where padding holds numbers; here it holds NaN, and NaN * 0 is NaN: select the text, do not multiply"
        )
    return compare(again, values[text].mean())


def _scores(length: int, shift: float) -> Float[Tensor, "T T"]:
    scores = drawn(length, length, seed=5) + shift
    scores[:, 0] += 1.5
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)


@exercise(
    hints=(
        "The sink is one more outcome of every row: it takes weight and reads nothing.",
        "Put the sink beside the scores before the softmax, then read the column of the first token.",
        "outcomes = torch.cat([scores, sink.expand(len(scores), 1)], dim=-1); outcomes.softmax(-1)[1:, 0].mean()",
    ),
    afterword="The rows over real keys sum to less than 1 now; what is missing is the mass of the sink.",
)
def first_attention_with_sink(answer: _Answer) -> str | None:
    """First-token attention of a head with a learned sink, at small and at large scores."""
    scores, sink = _scores(8, 0.0), torch.tensor(1.2, dtype=torch.float64)
    column = sink.expand(len(scores), 1)
    outcomes = torch.cat([scores, column], -1).softmax(-1)
    alone = scores.softmax(-1)
    one = torch.cat([scores, torch.zeros_like(column)], -1).softmax(-1)
    raw = scores.exp() / (scores.exp().sum(-1, keepdim=True) + sink)
    wrong = compare(
        answer(scores.clone(), sink.clone()),
        sound.first_attention_with_sink(scores, sink),
        mistakes={
            "this is the patient as it came in: the sink is not in the denominator. (To subtract it from all scores "
            "of a row changes nothing: softmax does not see that)": alone[1:, 0].mean(),
            "row 0 counts; with a sink it is no longer 1, but it still has no other key to read": outcomes[:, 0].mean(),
            "this is the mass of the sink itself; the first token is another column": outcomes[1:, -1].mean(),
            "the sink's logit counts as 0 whatever it was learned to be: that is softmax off by one": one[1:, 0].mean(),
            "the sink is added to the denominator as it is; it is a logit: take its exp": raw[1:, 0].mean(),
            "the weights over real keys were made to sum to 1 again, which takes the sink out": (
                (outcomes[:, :-1] / outcomes[:, :-1].sum(-1, keepdim=True))[1:, 0].mean()
            ),
            "the sink joined one row or one key, not every row": (
                torch.cat([scores, sink.expand(1, len(scores))], 0).softmax(-1)[1:, 0].mean()
            ),
            "these are the weights row by row; take their mean": outcomes[1:, 0],
        },
    )
    if wrong:
        return wrong
    large, deep = _scores(8, 1000.0), torch.tensor(1001.2, dtype=torch.float64)
    given = torch.as_tensor(answer(large.clone(), deep.clone()), dtype=torch.float64)
    if not given.isfinite().all():
        return (
            "right for small scores; at 1,000 exp overflows: let softmax or logsumexp take the maximum away, the sink "
            "included"
        )
    wrong = compare(given, sound.first_attention_with_sink(large, deep))
    return wrong and f"with scores around 1,000: {wrong}"


@exercise(
    hints=(
        "Probabilities are what softmax gives: not negative, and every row sums to 1. Then softmax has been taken.",
        "Decide once for the whole tensor: given = (x >= 0).all() and torch.allclose(x.sum(-1), ones, atol=1e-3).",
        "p = x if given else x.softmax(-1); return -torch.xlogy(p, p).sum(-1).mean(). xlogy knows that 0 log 0 is 0.",
    ),
    afterword="The name of an output is no evidence of what it holds. `Routing` asks the family of the model.",
)
def router_entropy(answer: _Answer) -> str | None:
    """Router entropy of logits, of probabilities under the name of logits, and of rows that only look like them."""
    for name, given, mistakes in _routers():
        found = answer(given.clone())
        if _is_nan(found):
            why = (
                "0 log 0 is 0, and torch says NaN: use torch.xlogy"
                if (given >= 0).all()
                else "a logarithm of a negative number: these are logits, and softmax comes first"
            )
            return f"{name}: NaN; {why}"
        known = {said: value for said, value in mistakes.items() if not _is_nan(value)}
        wrong = compare(found, sound.router_entropy(given), rtol=1e-3, mistakes=known)
        if wrong:
            return f"{name}: {wrong}"
    return None


def _routers() -> tuple[tuple[str, Tensor, dict[str, Tensor]], ...]:
    """What a router may return: its name, the tensor, and what known mistakes make of it."""
    logits = 3 * drawn(12, 8, seed=7)
    soft = logits.softmax(-1)
    p = _whole(soft)
    chance = logits - (logits.sum(-1, keepdim=True) - 1) / 8
    sharp = torch.eye(8, dtype=torch.float64)[[0, 3, 3, 7]]
    positive = logits.abs() + 0.1
    nats = sound.router_entropy(p)
    twice = broken.router_entropy(p)
    return (
        ("probabilities under the name of logits", p, {
            "this is the patient as it came in: softmax is taken of what has been through it": twice,
            "bits, where nats are asked for": nats / math.log(2),
            "the sign is turned round": -nats,
            "this is a share of log E; the exercise asks for nats": nats / math.log(8),
            "this is the sum over tokens; take the mean": 12 * nats,
            "this is the entropy of the mean token: how even the load is, not how sure the router is": (
                -torch.xlogy(p.mean(0), p.mean(0)).sum()
            ),
        }),
        ("true logits", logits, {
            "no softmax at all now: logits are taken for probabilities": -torch.xlogy(logits, logits).sum(-1).mean(),
        }),
        ("logits that sum to 1 by chance, some negative", chance, {}),
        ("logits that are all positive", positive, {
            "none is negative, but rows do not sum to 1: both are needed": (
                -torch.xlogy(positive, positive).sum(-1).mean()
            ),
        }),
        ("probabilities in single precision, whose sums are off by rounding", soft.float(), {
            "a sum of exactly 1 is asked for; rounding makes it 0.9999999: leave a tolerance": (
                broken.router_entropy(soft.float())
            ),
        }),
        ("probabilities in half precision, sums within 1e-3", soft.half().float(), {
            "the tolerance is too strict for probabilities that were rounded to half precision: 1e-3 will do": (
                broken.router_entropy(soft.half().float())
            ),
        }),
        ("a router that is certain", sharp, {}),
    )  # fmt: skip


def _whole(p: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
    """Rounded to what binary numbers add up without error, so that rows sum to exactly 1."""
    rounded = (p * 2**20).floor() / 2**20
    return torch.cat([rounded[:, :-1], 1 - rounded[:, :-1].sum(-1, keepdim=True)], -1)


def _is_nan(value: object) -> bool:
    return isinstance(value, Tensor | float) and bool(torch.as_tensor(value).isnan().any())


@exercise(
    hints=(
        "An expert's load is a matter of its layer: expert 3 of layer 0 and expert 3 of layer 5 share but a number.",
        "Count and average within each layer: f [L, E] from choice[l], P [L, E] = p.mean(1).",
        "f = torch.stack([torch.bincount(c, minlength=E) for c in choice]) / N; (E * f * p.mean(1)).sum(-1)",
    ),
    afterword="Report all of them. A mean over 48 layers hides a collapsed one nearly as well as pooling does.",
)
def balance_by_layer(answer: _Answer) -> str | None:
    """The balancing loss of each layer, where every layer collapsed onto an expert of its own."""
    L, N, E = 3, 40, 4
    logits = drawn(L, N, E, seed=9)
    logits[0, :, 1] += 6
    logits[2, :, 3] += 2
    p = logits.softmax(-1)
    choice = p.argmax(-1)
    right = sound.balance_by_layer(p, choice)
    f = torch.stack([torch.bincount(layer, minlength=E) for layer in choice]).double() / N
    pooled = broken.balance(p, choice)
    return compare(
        answer(p.clone(), choice.clone()),
        right,
        axes=("layer",),
        mistakes={
            "this is the patient as it came in: the layers are pooled before they are counted": pooled,
            "the layers are pooled, and the number is repeated": pooled.expand(L),
            "this is the mean over layers; keep one number a layer": right.mean(),
            "this is the sum over layers; keep one number a layer": right.sum(),
            "this is the worst layer; report them all": right.max(),
            "the factor E is missing: an even layer has a loss of 1": right / E,
            "f is divided by the tokens of all layers together": right / L,
            "f counts tokens; divide by how many a layer has": right * N,
            "f is that of all layers pooled; only P is by layer": E * (f.mean(0) * p.mean(1)).sum(-1),
            "P is that of all layers pooled; only f is by layer": E * (f * p.mean((0, 1))).sum(-1),
            "this is f with itself: no gradient reaches the router": E * (f * f).sum(-1),
            "the sum is over layers; it must be over experts": E * (f * p.mean(1)).sum(0),
        },
    )
