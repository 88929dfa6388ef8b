"""Layers put in the place of other layers of a model, for all ways to read weights sparse."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from gatescope.errors import Refusal


def chosen_layers(
    operator: str, model: nn.Module, kinds: type | tuple[type, ...], dense: Collection[str]
) -> dict[str, Any]:
    """The layers of ``kinds`` in ``model`` by name, without those that stay ``dense``.

    Raises Refusal, in the name of ``operator``, where a name of ``dense`` is no such layer or no layer is left.
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    unknown = sorted(set(dense) - found.keys())
    if unknown:
        raise Refusal(operator, f"dense layers of {', '.join(found)}", ", ".join(unknown), "check the names")
    chosen = {name: layer for name, layer in found.items() if name not in dense}
    if not chosen:
        named = kinds if isinstance(kinds, tuple) else (kinds,)
        step = f"pass a model with {' or '.join(f'nn.{kind.__name__}' for kind in named)}, or fewer dense"
        raise Refusal(operator, "a layer to make sparse", "none", step)
    return chosen


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` where ``name`` is in ``model``."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


__all__ = ["chosen_layers", "put"]
