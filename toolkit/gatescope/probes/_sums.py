"""Running sums by layer: what every probe keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatescope.errors import NonFiniteError, Refusal


class LayerSums:
    """Running sums by layer and name, in float64 where the device has it, kept on the device until they are read.

    Additions are never in place, so that passes under ``inference_mode`` and outside it can follow each other.

    kinds  what was seen of things that come in kinds, such as gates and routers
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.kinds: set[Any] = set()
        self._sums: dict[int, dict[str, Tensor]] = {}
        self._ways: dict[str, str] = {}

    def add(self, layer: int | None, **values: Tensor) -> None:
        """Add to the sums of ``layer``. Raises Refusal without a layer and for a shape other than before."""
        sums = self._of(layer)
        for name, value in values.items():
            self._ways.setdefault(name, "add")
            value = value.detach().to(precise(value))
            old = sums.get(name)
            if old is not None and old.shape != value.shape:
                self._refuse_shapes(f"{name} of layer {layer}", [old.shape, value.shape])
            sums[name] = value.clone() if old is None else old + value

    def add_growing(self, layer: int | None, **values: Tensor) -> None:
        """As `add`, for sums along tokens: where sequences get longer, the shorter sums go on with zeros."""
        sums = self._of(layer)
        for name, value in values.items():
            self._ways[name] = "add_growing"
            length = max(value.shape[-1], sums[name].shape[-1] if name in sums else 0)
            for holder, key in ((values, name), (sums, name)):
                if key in holder:
                    holder[key] = torch.nn.functional.pad(holder[key], (0, length - holder[key].shape[-1]))
        self.add(layer, **values)

    def largest(self, layer: int | None, **values: Tensor) -> None:
        """Keep the elementwise largest value instead of the sum; NaN stays."""
        sums = self._of(layer)
        for name, value in values.items():
            self._ways[name] = "largest"
            value = value.detach().to(precise(value))
            sums[name] = value.clone() if name not in sums else torch.maximum(sums[name], value)

    def get(self, layer: int | None, name: str) -> Tensor | None:
        """What is kept so far, on its device; None before the first."""
        return self._of(layer).get(name)

    def put(self, layer: int | None, **values: Tensor) -> None:
        """Replace what is kept."""
        self._ways.update(dict.fromkeys(values, "put"))
        self._of(layer).update({name: value.detach() for name, value in values.items()})

    def absorb(self, other: LayerSums, join: Callable[[str, Tensor, Tensor], Tensor]) -> None:
        """Take in what another process kept: sums are added, largest values compared, the rest is for ``join``.

        ``join(name, own, other)`` merges what was `put`.
        """
        self.kinds |= other.kinds
        for layer, sums in other._sums.items():
            for name, value in sums.items():
                own, way = self.get(layer, name), other._ways[name]
                value = value if own is None else value.to(own.device)
                if way == "put":
                    self.put(layer, **{name: value if own is None else join(name, own, value)})
                else:
                    getattr(self, way)(layer, **{name: value})

    def on_cpu(self) -> LayerSums:
        """A copy that another process can read."""
        found = LayerSums(self.owner)
        found.kinds, found._ways = set(self.kinds), dict(self._ways)
        found._sums = {layer: {name: value.cpu() for name, value in sums.items()} for layer, sums in self._sums.items()}
        return found

    def _of(self, layer: int | None) -> dict[str, Tensor]:
        if layer is None:
            raise Refusal(self.owner, "the index of the block", "None", "pass layer= to taps.tap or taps.attend")
        return self._sums.setdefault(layer, {})

    def __contains__(self, name: str) -> bool:
        return any(name in sums for sums in self._sums.values())

    @property
    def layers(self) -> list[int]:
        """The layers seen, in order. Raises Refusal when none was."""
        if not self._sums:
            raise Refusal(
                self.owner,
                "at least one forward pass that shows its sites",
                "none",
                "run the model inside the block, and measure gates and routers only on a model that has them",
            )
        return sorted(self._sums)

    def read(self, name: str) -> np.ndarray:
        """What is kept as ``name`` for all layers, [L ...]; NaN for layers that never had it.

        Raises NonFiniteError naming the layers where it is not finite, Refusal when layers have different shapes.
        """
        found = {layer: sums[name].cpu().numpy() for layer, sums in self._sums.items() if name in sums}
        broken = [layer for layer in self.layers if layer in found and not np.isfinite(found[layer]).all()]
        if broken:
            raise NonFiniteError(
                self.owner,
                f"finite numbers for {name}",
                f"NaN or infinity in layer {', '.join(map(str, broken))}",
                "look for NaN weights or an overflow at the first of these layers",
            )
        shapes = list(dict.fromkeys(value.shape for value in found.values()))
        if len(shapes) > 1:
            self._refuse_shapes(f"{name} in all layers", shapes)
        absent = np.full(shapes[0], np.nan)
        return np.stack([found.get(layer, absent) for layer in self.layers])

    def mean(self, total: str, count: str, wanted: str, next_step: str) -> np.ndarray:
        """Sum over count, [L ...]. Raises Refusal saying what was ``wanted`` where nothing was counted."""
        totals, counts = self.read(total), self.read(count)
        empty = [layer for layer, value in zip(self.layers, counts, strict=True) if np.any(value == 0)]
        if empty:
            raise Refusal(self.owner, wanted, f"none in layer {', '.join(map(str, empty))}", next_step)
        if counts.ndim == 1:
            counts = counts.reshape(-1, *(1,) * (totals.ndim - 1))
        return totals / counts

    def _refuse_shapes(self, what: str, shapes: list[tuple[int, ...]]) -> None:
        raise Refusal(
            self.owner,
            f"one shape for {what}",
            " and ".join(str(tuple(shape)) for shape in shapes),
            "measure models, or layers, of different shapes with probes of their own",
        )


def precise(x: Tensor) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


__all__ = ["LayerSums", "precise"]
