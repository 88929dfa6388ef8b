"""A small language model of bytes, trained with a gate or a sink and measured on text that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gatescope.errors import Refusal
from gatescope.studies.points.gate_atlas import Activation, GateRun, Position, gate_spec

if TYPE_CHECKING:
    import xarray as xr

_D, _HEADS, _LAYERS = 64, 2, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRun:
    """What stands in the attention of a byte model, and how it is trained.

    position, granularity, activation, combine  the gate, as in `gate_atlas.GateRun`; "none": no gate
    sink      "none": softmax; "learned": a logit a head in the denominator; "off_by_one": that logit held at 0
    encoding  "rope", or "none": of positions the model knows what causality tells
    lr        of Adam: a warm-up of 5 % of the steps, a plateau, 20 % falling to 0
    steps     of 16 crops of `bytewise.LENGTH` tokens
    seed      initial weights and batches; the same for all variants, outside gate and sink themselves

    Raises Refusal for values outside these lists, and for a gate that `GateRun` refuses.
    """

    position: Position = "none"
    granularity: Literal["element", "head"] = "element"
    activation: Activation = "sigmoid"
    combine: Literal["multiply", "add"] = "multiply"
    sink: Literal["none", "learned", "off_by_one"] = "none"
    encoding: Literal["rope", "none"] = "rope"
    lr: float = 8e-3
    steps: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.steps < 1:
            raise Refusal("ByteRun", "lr > 0 and steps >= 1", f"lr={self.lr}, steps={self.steps}", "use 8e-3 and 400")
        _ = self.gate  # refused now, not when it is measured

    @property
    def gate(self) -> GateRun:
        """The gate, as one of the atlas."""
        gate = {name: getattr(self, name) for name in ("position", "granularity", "activation", "combine")}
        return GateRun(**gate, n_heads=_HEADS)


def measure(run: ByteRun) -> xr.Dataset:
    """Train and measure: sinks, entropy, massive activations, value drain, gate scores and ``loss`` on held-out text,
    losses at longer lengths (`bytewise.beyond`); ``train_loss`` is the mean over the last 50 steps.

    Raises NonFiniteError when training diverges.
    """
    import numpy as np

    from gatescope import records
    from gatescope.bytewise import TASK, beyond, evaluate, held_out
    from gatescope.records import Quantity
    from gatescope.tasks.text import BYTE_VOCAB
    from gatescope.train import Training, TrainSpec

    spec = TrainSpec(steps=run.steps, batch=16, lr=run.lr, warmup=run.steps // 20, seed=run.seed)
    training = Training(model_config(run), TASK, spec).run(progress=False)
    model, tokens = training.model.eval(), held_out()
    record = evaluate(model, tokens)
    train_loss = Quantity(
        "train_loss", (), "nats", "training loss a byte", "mean over the last 50 steps", "train.Training", "log(vocab)"
    )
    last = float(np.mean(training.losses[-50:]))
    found = records.new({"train_loss": train_loss.variable(last, baseline_value=np.log(BYTE_VOCAB))})
    # Which commit measured it stands beside the record; in it, points of one code would differ.
    about = {name: value for name, value in record.attrs.items() if name not in ("commit", "dirty", "seed")}
    return records.merge([record, beyond(model, tokens), found], **about)


def model_config(run: ByteRun) -> Any:
    """The `LMConfig` of a run: 2 layers of 2 heads, D = 64, SwiGLU."""
    from gatescope.models import AttentionSpec, LMConfig, MLPSpec
    from gatescope.tasks.text import BYTE_VOCAB

    attention = AttentionSpec(
        n_heads=_HEADS,
        n_kv_heads=_HEADS,
        head_dim=_D // _HEADS,
        rope_theta=10_000.0 if run.encoding == "rope" else None,
        gate=gate_spec(run.gate),
        sink=None if run.sink == "none" else run.sink,
    )
    return LMConfig(BYTE_VOCAB, _D, _LAYERS, attention, MLPSpec("swiglu", hidden=8 * _D // 3))


__all__ = ["ByteRun", "measure", "model_config"]
