"""One gate of the atlas: a small model trained on bigram-binding, then measured on sequences it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from gatescope.errors import Refusal

if TYPE_CHECKING:
    import xarray as xr

Position = Literal["none", "sdpa", "value", "key", "query", "output"]
Activation = Literal["sigmoid", "non_sparse_sigmoid", "silu", "tanh", "linear"]

#: A multiplied gate starts at this score, nearly open: sigmoid(2), as in lesson 02. An added one starts at 0.
_OPEN = 0.8807970779778823


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRun:
    """A gate and how the model around it is trained; the axes of the atlas.

    position     where it sits (G1 sdpa, G2 value, G3 key, G4 query, G5 output); "none": no gate, the control
    granularity  one score a channel or a head
    sharing      heads with scores of their own, or one set for all; the same thing where there is one head
    activation   row of gates.ACTIVATIONS
    combine      multiply or add
    source       "token": logits from the layer's input; "none": parameters, the same for every token
    n_heads      heads of 64 channels together
    lr, steps    of Adam, otherwise as `recipes.bigram_train_spec`
    seed         initial weights and batches; the same for all gates, outside the gate itself

    Raises Refusal for values outside these lists, a gate that the position cannot hold, and a control that says
    something of its gate.
    """

    position: Position = "none"
    granularity: Literal["element", "head"] = "element"
    sharing: Literal["per_head", "shared"] = "per_head"
    activation: Activation = "sigmoid"
    combine: Literal["multiply", "add"] = "multiply"
    source: Literal["token", "none"] = "token"
    n_heads: int = 1
    lr: float = 5e-3
    steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        gate = (self.granularity, self.sharing, self.activation, self.combine, self.source)
        if self.position == "none" and gate != ("element", "per_head", "sigmoid", "multiply", "token"):
            raise Refusal("GateRun", "nothing said of the gate at position 'none'", str(gate), "leave it out there")
        if self.position == "output" and gate[:2] != ("element", "per_head"):
            got = f"granularity={self.granularity!r}, sharing={self.sharing!r}"
            step = "W_O has mixed the heads; use position sdpa for a gate that knows them"
            raise Refusal("GateRun", "an element-wise gate, not shared, at position 'output'", got, step)
        if self.sharing == "shared" and self.n_heads == 1:
            raise Refusal("GateRun", "2 heads or more to share a gate", "1", "set n_heads=2")
        if self.n_heads < 1 or 64 % (2 * self.n_heads):
            raise Refusal("GateRun", "n_heads with an even share of 64 channels", str(self.n_heads), "use 1 or 2")


def measure(run: GateRun) -> xr.Dataset:
    """Train and measure: sinks, entropy, massive activations, value drain, gate scores, losses, all on 128 held-out
    sequences; ``train_loss`` is the mean over the last 100 steps.

    Raises NonFiniteError when training diverges.
    """
    import numpy as np

    from gatescope import records
    from gatescope.binding import TASK, evaluate, held_out
    from gatescope.recipes import bigram_config, bigram_train_spec
    from gatescope.records import Quantity
    from gatescope.train import Training

    config = bigram_config(gate=gate_spec(run), n_heads=run.n_heads)
    spec = bigram_train_spec(run.seed, lr=run.lr, steps=run.steps)
    training = Training(config, TASK, spec).run(progress=False)
    record = evaluate(training.model.eval(), *held_out())
    train_loss = Quantity(
        "train_loss", (), "nats", "training loss", "mean over the last 100 steps", "train.Training", "log(vocab)"
    )
    last = float(np.mean(training.losses[-100:]))
    found = records.new({"train_loss": train_loss.variable(last, baseline_value=np.log(TASK.vocab))})
    # Which commit measured it stands beside the record; in it, points of one code would differ.
    about = {name: value for name, value in record.attrs.items() if name not in ("commit", "dirty", "seed")}
    return records.merge([record, found], **about)


def gate_spec(run: GateRun) -> Any:
    """The `GateSpec` of a run, or None without a gate: its bias is such that a multiplied gate starts nearly open and
    an added one at 0, or as near to 0 as it comes (a sigmoid at 0.12)."""
    from gatescope.gates import GateSpec

    if run.position == "none":
        return None
    return GateSpec(
        position=run.position,
        granularity=run.granularity,
        sharing=run.sharing,
        activation=run.activation,
        combine=run.combine,
        input=run.source,
        bias_init=start_bias(run.activation, run.combine),
    )


def start_bias(activation: str, combine: str) -> float:
    """The logit whose score is 0.88 (multiply), found by bisection since every activation rises from 0 on; for an added
    gate 0, and -2 where 0 is no logit's score."""
    import torch

    from gatescope.gates import ACTIVATIONS

    def score(logit: float) -> float:
        return float(ACTIVATIONS[activation].apply(torch.tensor(logit, dtype=torch.float64)))

    if combine == "add":
        return 0.0 if score(0.0) == 0 else -2.0
    low, high = 0.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) < _OPEN else (low, middle)
    return low


#: For tests: what the atlas may choose from.
ACTIVATION_NAMES: tuple[str, ...] = get_args(Activation)

__all__ = ["ACTIVATION_NAMES", "GateRun", "gate_spec", "measure", "start_bias"]
