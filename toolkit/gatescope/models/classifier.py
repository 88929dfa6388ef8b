"""A fully connected classifier in ReLU, as small as networks come: what pruning was first studied on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gatescope import specs
from gatescope.errors import Refusal
from gatescope.taps import tap


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """Sizes of a `Classifier`; the default is LeNet-300-100 on images of 8 x 8 (LeCun et al. 1998).

    inputs   values of an input, flattened
    hidden   width of every hidden layer
    classes  logits that come out

    Raises Refusal for sizes below 1 and for no hidden layer.
    """

    inputs: int = 64
    hidden: tuple[int, ...] = (300, 100)
    classes: int = 10

    def __post_init__(self) -> None:
        if not self.hidden or min(self.sizes) < 1:
            raise Refusal("ClassifierConfig", "sizes >= 1, one hidden layer or more", f"{self.sizes}", "use (300, 100)")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from input to output."""
        return (self.inputs, *self.hidden, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can carry."""
        return specs.to_dict(self)


class Classifier(nn.Module):
    """Inputs to logits.

        h_0 = x,    h_l = ReLU(W_l h_{l-1} + b_l),    logits = W h_L + b

    Hidden activations pass at "mlp" as [B 1 F], one token a sample. Weights are drawn from ``init_seed`` alone, Glorot
    and Bengio 2010: N(0, 2 / (d_in + d_out)), biases 0, as Frankle and Carbin 2018 do.
    """

    tap_sites = frozenset({"embed", "mlp", "logits"})

    def __init__(self, config: ClassifierConfig, *, init_seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(init_seed)
        self.layers = nn.ModuleList()
        for d_in, d_out in zip(config.sizes[:-1], config.sizes[1:], strict=True):
            layer = nn.utils.skip_init(nn.Linear, d_in, d_out)
            nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def enter(self, inputs: Float[Tensor, B * shape]) -> Float[Tensor, "B 1 values"]:
        """Inputs as the first layer reads them. Raises Refusal for inputs of another size."""
        x = inputs.flatten(1)
        if x.shape[1] != self.config.inputs:
            wanted = f"{self.config.inputs} values an input"
            raise Refusal("Classifier", wanted, f"{tuple(inputs.shape)}", "pass images [B 8 8] of `tasks.digits`")
        return tap("embed", x[:, None])

    def stage(self, place: int, x: Float[Tensor, "B 1 before"]) -> Float[Tensor, "B 1 F"]:
        """Activations of hidden layer ``place`` from what it reads."""
        return tap("mlp", self.layers[place](x).relu(), layer=place)

    def forward(self, inputs: Float[Tensor, B * shape]) -> Float[Tensor, "B classes"]:
        """Logits of every class. Raises Refusal for inputs of another size."""
        x = self.enter(inputs)
        for place in range(len(self.config.hidden)):
            x = self.stage(place, x)
        return self.readout(x)

    def readout(self, x: Float[Tensor, "B 1 F"]) -> Float[Tensor, "B classes"]:
        """Logits from the activations of the last hidden layer."""
        return tap("logits", self.layers[-1](x))[:, 0]


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Float[Tensor, B * shape], labels: Tensor) -> float:
    """Share of inputs whose largest logit is at their label."""
    return float((model(inputs).argmax(-1) == labels).double().mean())


__all__ = ["Classifier", "ClassifierConfig", "accuracy"]
