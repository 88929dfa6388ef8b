"""Hooks that make the modules of a Hugging Face model show what passes, by the row of its family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gatescope.errors import Refusal, UntappableModelError
from gatescope.taps.core import frame, listeners, tap
from gatescope.taps.families import Family, Router
from gatescope.taps.sites import GateScores, RouterScores


@dataclass(frozen=True, slots=True)
class Place:
    """One site of one block, and what puts the hook there; None where the attention function shows it."""

    site: str
    register: Callable[[], RemovableHandle] | None = None


def places(base: nn.Module, family: Family) -> list[Place]:
    """Where a base model shows its sites. Raises UntappableModelError when its modules are not where the row says."""
    found: list[Place] = []
    blocks = _at(base, family.blocks)
    if blocks is None:
        _refuse(base, family, family.blocks)
    for layer, block in enumerate(blocks):
        found += _of_block(base, family, layer, block)
    return found


def _of_block(base: nn.Module, family: Family, layer: int, block: nn.Module) -> list[Place]:
    attention = _at(block, family.attention)
    router = None if family.router is None else _at(block, family.router.path)
    added = [module for path in family.attention_update if (module := _at(block, path)) is not None]
    mlp = _at(block, family.mlp_update)
    if not added or mlp is None:
        _refuse(base, family, " or ".join((*family.attention_update, family.mlp_update)))
    found = [
        _place("attention_update", added[0], _output, layer),
        _place("mlp_update", mlp, _output, layer),
        _place("resid", block, _output, layer),
    ]
    if layer == 0:
        enter = block.register_forward_pre_hook
        found.append(Place("embed", partial(enter, _entering, with_kwargs=True, prepend=True)))
    if attention is not None:
        found.append(Place("attention"))
        if family.gate is not None:
            found.append(_place("gate", _at(block, family.gate), _gate, layer, attention))
    if router is not None and family.router is not None:
        shared = int(getattr(base.config, family.router.shared, None) or 0) if family.router.shared else 0
        if family.router.shared == "shared_expert_intermediate_size":
            shared = int(shared > 0)
        found.append(_place("router", router, _routed, layer, family.router, shared))
    elif family.down is not None:
        down = _at(block, family.down)
        if down is None:
            _refuse(base, family, family.down)
        found.append(Place("mlp", partial(down.register_forward_pre_hook, partial(_hidden, layer), prepend=True)))
    return found


def _place(site: str, module: nn.Module, show: Callable[..., Any], *about: Any) -> Place:
    if show is _output:
        about = (site, *about)
    return Place(site, partial(module.register_forward_hook, partial(show, *about), prepend=True))


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _refuse(base: nn.Module, family: Family, path: str) -> Any:
    raise UntappableModelError(
        "attached",
        f"{family.title} as taps.FAMILIES describes it",
        f"{type(base).__name__} without the module {path!r}",
        "use the version of transformers that pyproject.toml pins, or correct the row",
    )


def _output(site: str, layer: int, module: nn.Module, args: Any, output: Any) -> Any:
    shown = output[0] if isinstance(output, tuple) else output
    edited = tap(site, shown, layer=layer)
    if edited is shown:
        return None
    return (edited, *output[1:]) if isinstance(output, tuple) else edited


def _hidden(layer: int, module: nn.Module, args: tuple[Any, ...]) -> Any:
    edited = tap("mlp", args[0], layer=layer)
    return None if edited is args[0] else (edited, *args[1:])


def _entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0] if args else kwargs["hidden_states"]
    running = frame.get()
    if running is not None:
        running.now.shape = tuple(x.shape[:2])
    edited = tap("embed", x)
    if edited is x:
        return None
    return ((edited, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": edited})


def _gate(layer: int, attention: Any, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    """Show the gate in the second half of each head's queries, and hand it to the attention.

    The projection then gives an open gate in its place (the sigmoid of infinity is 1), so that what the model
    multiplies by afterwards changes nothing.
    """
    running = frame.get()
    if running is None or not (listeners("gate") or listeners("attention")):
        return None
    query, logits = output.unflatten(-1, (-1, 2 * attention.head_dim)).chunk(2, dim=-1)
    scores = GateScores(torch.sigmoid(logits).transpose(1, 2), "sdpa")
    running.now.gates[attention] = tap("gate", scores, layer=layer).scores
    return torch.cat([query, torch.full_like(logits, torch.inf)], -1).flatten(-2)


def _routed(layer: int, router: Router, shared: int, module: nn.Module, args: Any, output: Any) -> Any:
    running = frame.get()
    if running is None or running.now.shape is None or not listeners("router"):
        return None
    logits, weight, index = output
    B, T = running.now.shape
    wide = logits.float()
    scores = RouterScores(
        logits=logits.reshape(B, T, -1),
        probabilities=(wide.softmax(-1) if router.kind == "softmax" else wide.sigmoid()).reshape(B, T, -1),
        index=index.reshape(B, T, -1),
        weight=weight.reshape(B, T, -1),
        kind=router.kind,
        bias=None if router.bias is None else getattr(module, router.bias),
        shared=shared,
    )
    edited = tap("router", scores, layer=layer)
    if edited is scores:
        return None
    for name in ("index", "weight"):
        before, after = getattr(scores, name), getattr(edited, name)
        if (after.shape, after.dtype) != (before.shape, before.dtype):
            raise Refusal(
                "attached",
                f"an edit at 'router' (layer {layer}) that keeps {name} {before.dtype} {tuple(before.shape)}",
                f"{after.dtype} {tuple(after.shape)}",
                "drop an expert by a weight of 0, or put another index in its place",
            )
    return logits, edited.weight.reshape(weight.shape), edited.index.reshape(index.shape)


__all__ = ["Place", "places"]
