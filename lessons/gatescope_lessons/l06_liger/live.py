"""A converted model read anew at any mix, window and gate: its score, its gates, and who reads whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import xarray as xr
from gatescope import checkpoints, data, records
from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec, LigerSpec
from gatescope.layers.decay import DecayKind, half_life
from gatescope.models import TinyLM
from gatescope.probes import Gates
from gatescope.records import Quantity
from gatescope.scope import Scope
from gatescope.surgery import merged, to_liger
from gatescope.taps import AttentionCall, Event, GateScores, Handler, LinearAttentionCall, attached
from gatescope_kernels import gated_attention, gated_linear_attention
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_lessons.l05_the_gate_as_a_clock.live import spell
from gatescope_lessons.l06_liger.runs import LORA, TASKS, Run, held_out, score, teacher

#: What a gate from keys can make of a key between -8 and 8: the span of the histogram of scores.
SPAN = (0.6, 1.0)
_LAN = "Lan et al. 2025 (arXiv 2503.01496)"
_KEPT = Quantity(
    "kept", ("token",), "1", "kept of the state", "mean over channels of sigmoid(k)^(1/16)", _LAN, "a key of 0: 0.958"
)
_INFLUENCE = Quantity(
    "influence",
    ("token", "key"),
    "1",
    "weight of a token's value in an output",
    "mix phi(q_i)^T prod(a) phi(k_j) + (1 - mix) A_ij",
    _LAN,
    "uniform attention: 1 / tokens seen",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How trained weights are read.

    task      "recall" or "bytes"
    repair    whose adapters are added to the weights: a variant of runs.VARIANTS, or "none"
    share     of the adapters that is added, 0 to 1
    mix, window, decay   as in LigerSpec; window None sees all
    """

    task: str
    repair: str = "liger"
    share: float = 1.0
    mix: float = 0.5
    window: int | None = 4
    decay: DecayKind = "channel"

    def model(self) -> TinyLM:
        """The model. Raises Refusal for values outside their lists."""
        plain = _teacher(self.task)
        spec = {"mix": self.mix, "window": self.window, "decay": self.decay}
        if self.repair == "none":
            return to_liger(plain, **spec)
        found = _adapters(Run(self.task, self.repair, 0))
        return to_liger(merged(plain, found, replace(LORA, alpha=LORA.alpha * self.share)), **spec)


@cache
def _teacher(task: str) -> TinyLM:
    return teacher(task, 0)


@cache
def _adapters(run: Run) -> dict[str, Tensor]:
    return checkpoints.read_tensors(data.path(run.checkpoint))[0]


def shown_tokens(task: str) -> tuple[Int[Tensor, "1 T"], list[str]]:
    """One sequence that no model was trained on, and its tokens as words."""
    if task == "recall":
        own = TASKS["recall"]
        tokens = own.batch(20261107, 1)[0]
        return tokens, spell(tokens[0], own)  # type: ignore[arg-type]
    tokens = held_out()[:1]
    return tokens, ["" if token > 255 else chr(token) for token in tokens[0].tolist()]


class _Calls(Handler):
    """Keeps the halves and the gate of one layer."""

    def __init__(self, model: TinyLM, layer: int) -> None:
        self.sites = model.tap_sites & {"attention", "linear_attention", "gate"}
        self.layer = layer
        self.softmax: AttentionCall | None = None
        self.recurrent: LinearAttentionCall | None = None
        self.gate: GateScores | None = None

    def watch(self, event: Event) -> None:
        if event.layer == self.layer:
            name = {"attention": "softmax", "linear_attention": "recurrent", "gate": "gate"}[event.site]
            setattr(self, name, event.value)


def influence(spec: LigerSpec, calls: _Calls) -> Float[Tensor, "H T T"]:
    """The weight of every value in every output of a layer: its halves on values that are the unit vectors."""
    call = calls.softmax or calls.recurrent
    assert call is not None
    eye = torch.eye(call.q.shape[2], dtype=call.q.dtype)[None, None]
    total = torch.zeros(())
    if calls.recurrent is not None:
        unit = replace(calls.recurrent, v=eye.expand(1, calls.recurrent.k.shape[1], -1, -1))
        total = total + spec.mix * gated_linear_attention(**unit.arguments())[0]
    if calls.softmax is not None:
        unit_values = replace(calls.softmax, v=eye.expand(1, calls.softmax.k.shape[1], -1, -1))
        total = total + (1 - spec.mix) * gated_attention(**unit_values.arguments())
    return total[0]


@torch.no_grad()
def read(reading: Reading, *, layer: int = 1, head: int = 0, size: int = 64) -> xr.Dataset:
    """A reading on held-out data: its score, and on one sequence the gate and the influence of a head.

    score               in the attributes, as runs.score has it
    kept(token)         what the head's gate keeps; absent without a recurrent half, 1 where nothing is forgotten
    half_life           of the mean log score, in the attributes; NaN without a recurrent half
    influence(token, key)

    Raises Refusal for a layer or head that is not there, and as `Reading.model` does.
    """
    model = reading.model()
    spec = model.config.mixers[0]
    assert isinstance(spec, LigerSpec)
    plain = spec.attention
    if not (0 <= layer < model.config.n_layers and 0 <= head < plain.n_heads):
        wanted = f"layer below {model.config.n_layers} and head below {plain.n_heads}"
        raise Refusal("read", wanted, f"layer {layer}, head {head}", "this model is small; choose one of them")
    (tokens, words), calls = shown_tokens(reading.task), _Calls(model, layer)
    with attached(model, calls):
        model(tokens)
    weights = influence(spec, calls)[head].double()
    found = {"influence": _INFLUENCE.variable(weights.numpy())}
    life = float("nan")
    if calls.recurrent is not None:
        scores = torch.ones(1, plain.n_kv_heads, tokens.shape[1], 1) if calls.gate is None else calls.gate.scores
        own = scores[0, head * plain.n_kv_heads // plain.n_heads].double()
        life = half_life(float(own.log().mean().exp()))
        found["kept"] = _KEPT.variable(own.mean(-1).numpy(), baseline_value=0.5 ** (1 / 16))
    about = f"{reading.task}, layer {layer}, head {head}"
    record = records.new(found, score=score(model, reading.task, size), half_life=life, note=about)
    return record.assign_coords(piece=("token", words))


@torch.no_grad()
def gates(task: str, repair: str = "liger") -> xr.Dataset:
    """Scores of the gates of every layer and key-value head on held-out data: what `views.gate_histogram` draws."""
    model = Reading(task=task, repair=repair, window=None).model()
    tokens = held_out() if task == "bytes" else TASKS["recall"].batch(20261107, 64)[0]
    with Scope(model, probes=[Gates("decay", bins=32, span=SPAN)]) as scope:
        model(tokens)
    return scope.record()


def heads_of(task: str) -> int:
    """Query heads of a layer of the task's model."""
    spec = _teacher(task).config.mixers[0]
    assert isinstance(spec, AttentionSpec)
    return spec.n_heads


__all__ = ["SPAN", "Reading", "gates", "heads_of", "influence", "read", "shown_tokens"]
