"""Checks of lesson 13. Each knows the mistakes people make and names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gatescope.errors import Refusal
from gatescope.models import TinyLM
from gatescope.probes import Sinks
from gatescope.scope import Scope

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l02_one_gate_no_sink import lab as gates
from gatescope_lessons.l13_scope_your_own_model.foreign import OwnLM, TappedLM, by_hand

_E, _K = 6, 2


def _probabilities() -> torch.Tensor:
    """[T E] of a router that is sure of some tokens and not of others, with an expert it all but never names."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(9, _E, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 4, 9)[:, None]
    logits[:, 5] -= 30
    return logits.softmax(-1)


@exercise(
    hints=(
        "First the entropy of every token: -sum_e p_e log p_e. Then the mean over tokens.",
        "The largest entropy over E experts is log E, when all are alike. Divide by it.",
        "-(torch.special.xlogy(p, p)).sum(-1).mean() / math.log(p.shape[-1]); xlogy is 0 where p is 0",
    ),
    afterword="0 is a router that has made up its mind for every token, 1 one that knows nothing.",
)
def router_entropy(answer: Callable[..., Any]) -> str | None:
    """Entropy of a router, token by token, as a share of log E."""
    p = _probabilities()
    nats = -torch.special.xlogy(p, p).sum(-1)
    load = p.mean(0)
    wrong = answer(torch.eye(_E, dtype=torch.float64)) if callable(answer) else None
    if wrong is not None and not math.isfinite(float(torch.as_tensor(wrong).sum())):
        return "NaN for a router that is certain: 0 log 0 is 0; torch.special.xlogy(p, p) knows that"
    return compare(
        answer(p),
        nats.mean() / math.log(_E),
        axes=("token",),
        mistakes={
            "these are nats; divide by the largest value they can take, log E": nats.mean(),
            "divided by log k: the router has an opinion on all E experts, not on the k chosen": (
                nats.mean() / math.log(_K)
            ),
            "this is one value a token; take their mean": nats / math.log(_E),
            "this is the entropy of the mean probabilities: how even the *load* is. A router may be certain of every "
            "token and load all experts alike; take the entropy of each token first": (
                -torch.special.xlogy(load, load).sum() / math.log(_E)
            ),
            "divided by E; the largest entropy of E experts is log E": nats.mean() / _E,
        },
    )


_INDEX = torch.tensor([[0, 3], [3, 1], [0, 5], [3, 0], [0, 3], [4, 3]])
_WEIGHT = torch.tensor([[0.7, 0.3], [0.6, 0.4], [1.0, 0.0], [0.8, 0.2], [0.5, 0.5], [0.9, 0.1]])


@exercise(
    hints=(
        "A visit of weight 0 adds nothing to the output: it is no visit. `index[weight != 0]` are the real ones.",
        "An expert that is not among them is dead: set(range(experts)) minus those.",
        "sorted(set(range(experts)) - set(index[weight != 0].tolist()))",
    ),
    afterword="Dead *in this window*: six tokens prove little. The record says how many it saw: window_tokens.",
)
def dead_experts(answer: Callable[..., Any]) -> str | None:
    """The experts that no token visits with a weight other than 0."""
    found = answer(_INDEX, _WEIGHT, _E)
    given = sorted(int(expert) for expert in torch.as_tensor(found).flatten().tolist())
    known = {
        "expert 5 is chosen once, with weight 0: the model adds nothing of it. Count visits of weight other than 0": [
            2
        ],
        "these are the living": [0, 1, 3, 4],
        "only first choices were counted; a token visits all its k experts": sorted(
            set(range(_E)) - set(_INDEX[:, 0].tolist())
        ),
        "counted from 1: experts are numbered from 0": [3, 6],
        "experts 1 and 4 are visited once: rare is not dead": [1, 2, 4, 5],
    }
    for sentence, wrong in known.items():
        if given == wrong:
            return sentence
    return None if given == [2, 5] else f"wanted the numbers of the dead among 0..{_E - 1}, got {given}"


@torch.no_grad()
def _first_attention(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with Scope(model, [Sinks(first_query=gates.FIRST_QUERY)]) as scope:
        model(tokens)
    return torch.as_tensor(scope.record().first_attention.values)


@exercise(
    hints=(
        "The operator is `attend(call, layer=layer)`; all it needs to know stands in an AttentionCall.",
        "AttentionCall(q, k, v) is causal and scales by 1/sqrt(K) by itself: give it q as it came.",
        "return attend(AttentionCall(q, k, v), layer=layer)",
    ),
    afterword="One call. Without a probe it runs the plain operator; with one, statistics come from the same pass.",
)
def tapped_attention(answer: Callable[..., Any]) -> str | None:
    """Causal attention that shows itself: same logits, and the sink score that the original model has."""
    weights = gates.load("softmax")
    tokens, _ = gates.held_out(4)
    with torch.no_grad():
        wanted, got = OwnLM(weights, by_hand)(tokens), TappedLM(weights, answer)(tokens)
    if wanted.shape != got.shape:
        return f"the model's logits are {tuple(got.shape)} instead of {tuple(wanted.shape)}: keep [B H T K]"
    if not torch.allclose(wanted, got, rtol=1e-3, atol=1e-3):
        return _what_changed(weights, tokens, got)
    try:
        found = _first_attention(TappedLM(weights, answer), tokens)
    except Refusal as error:
        return f"the model computes the same as before, but shows no attention. Scope says: {error}"
    truth = _first_attention(weights, tokens)
    return compare(found, truth, rtol=1e-3, atol=1e-4, axes=("layer", "head"))


@torch.no_grad()
def _what_changed(weights: TinyLM, tokens: torch.Tensor, got: torch.Tensor) -> str:
    width = math.sqrt(weights.config.attention.head_dim)

    def twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int) -> torch.Tensor:
        return by_hand(q / width, k, v, layer)

    def unscaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int) -> torch.Tensor:
        return by_hand(q * width, k, v, layer)

    def swapped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int) -> torch.Tensor:
        return by_hand(q, v, k, layer)

    def sighted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int) -> torch.Tensor:
        return (q @ k.mT / width).softmax(-1) @ v

    known = {
        "q is scaled twice: the operator divides by sqrt(K) itself, so give it q as it came": twice,
        "nothing scales: leave `scale` out, and the operator divides by sqrt(K)": unscaled,
        "keys and values have changed places": swapped,
        "every query sees the future: leave visibility as it is, which is causal": sighted,
    }
    for sentence, wrong in known.items():
        if torch.allclose(OwnLM(weights, wrong)(tokens), got, rtol=1e-3, atol=1e-3):
            return sentence
    largest = float((OwnLM(weights, by_hand)(tokens) - got).abs().max())
    return f"the model computes something else than before: its logits differ by up to {largest:.3g}"


#: Letter -> why something is refused.
REASONS = {
    "a": "nothing that the taps know is called, so nothing can be seen",
    "b": "the model would have to hold the T x T matrix",
    "c": "the map holds one sequence; several cannot share its tokens",
    "d": "a graph made before knows nothing of who watches now",
}
#: Case of the exercise -> its letter.
_WHY = {"by hand": "a", "output_attentions": "b", "two sequences": "c", "compiled": "d"}
_BECAUSE = {
    "by hand": "its softmax is a matrix product like any other; no function that the taps know is called",
    "output_attentions": "the argument asks the model for its matrices: that is what Scope avoids",
    "two sequences": "Routing(keep=True) keeps an entry a token, of one sequence",
    "compiled": "torch.compile has turned the forward pass into a graph, in which no tap can be set",
}


@exercise(
    hints=(
        "Each reason fits one case. Read the sentence after *got* in each refusal.",
        "Which of the four asks for memory? Which one hides the Python code? Which one would mix up texts?",
        '{"by hand": "a", "output_attentions": "b", "two sequences": "c", "compiled": "d"}',
    ),
    afterword="A refusal names the place, what was wanted, what came, and the next step. None is a silent zero.",
)
def why_refused(answer: Any) -> str | None:
    """The reason, as a letter of REASONS, of each of the four refusals."""
    if not isinstance(answer, dict):
        return f"wanted a dictionary from case to letter, got a {type(answer).__name__}"
    if missing := [case for case in _WHY if case not in answer]:
        return f"no reason for {', '.join(map(repr, missing))}"
    for case, letter in _WHY.items():
        given = str(answer[case]).strip().lower()
        if given not in REASONS:
            return f"{case}: wanted one of {', '.join(REASONS)}, got {answer[case]!r}"
        if given != letter:
            return f"{case}: not because {REASONS[given]}. {_BECAUSE[case]}"
    return None
