"""Models written by others: what makes their forward pass emit taps while handlers are attached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from gatescope.errors import UntappableModelError
from gatescope.taps.core import frame


class Adapter:
    """What `attached` asks of a model that does not emit taps itself.

    sites       the sites of taps.SITES its forward pass can show
    more        what to do for a site that is not among them
    installed   entered before the first handler is attached, left after the last is gone. Installing one model twice,
                or a model and a part of it, is counted, and the last to leave restores everything
    run         one forward pass, with the handlers already listening
    """

    sites: frozenset[str]
    more: str

    def installed(self) -> AbstractContextManager[None]:
        """Make the model emit taps until the block ends."""
        raise NotImplementedError

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run one forward pass. Raises UntappableModelError for an argument under which it cannot be tapped."""
        raise NotImplementedError


def adapter_for(model: nn.Module) -> Adapter | None:
    """The adapter of a model without ``tap_sites``, or None where nothing in it can be tapped.

    Hugging Face models (`taps.families`) show what their row says, others of transformers their attention; a plain
    PyTorch model shows the attention it computes by scaled_dot_product_attention. transformers is looked at only when
    it is loaded already. Raises UntappableModelError for a model that holds what should be attached to instead.
    """
    if any(hasattr(module, "tap_sites") for module in model.modules()):
        return None
    transformers = sys.modules.get("transformers")
    if transformers is not None and any(_from_transformers(module) for module in model.modules()):
        from gatescope.taps.hf import adapter_of

        return adapter_of(model)
    from gatescope.taps.sdpa import SDPAAdapter

    return SDPAAdapter(model) if _may_attend(model) else None


def _from_transformers(module: nn.Module) -> bool:
    return any(base.__module__ == "transformers.modeling_utils" for base in type(module).__mro__) or type(
        module
    ).__module__.startswith("transformers.models.")


def _may_attend(model: nn.Module) -> bool:
    """Whether it holds a module that may call attention: one written by hand, or torch's own attention."""
    return any(
        not type(module).__module__.startswith("torch.nn.modules") or isinstance(module, nn.MultiheadAttention)
        for module in model.modules()
    )


def refuse_compiled(model: nn.Module) -> None:
    """Raises UntappableModelError for a compiled model: a graph made without handlers would pass them by in silence."""
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            where = f"its submodule {name!r}" if name else type(model).__name__
            raise UntappableModelError(
                "attached",
                "a model that runs in Python",
                f"{where} compiled by torch.compile",
                "attach to the model before torch.compile (model._orig_mod is it), or leave out model.compile()",
            )


def refuse_compiling(model: nn.Module) -> None:
    """Raises UntappableModelError while a function that calls ``model`` is being compiled."""
    if torch.compiler.is_compiling():
        raise UntappableModelError(
            "attached",
            "a model that runs in Python",
            f"{type(model).__name__} inside a function compiled by torch.compile",
            "call the model outside of the compiled function",
        )


def refuse_unseen(model: nn.Module, before: int) -> None:
    """Raises UntappableModelError when a handler waits for attention and a forward pass showed none."""
    running = frame.get()
    waiting = [] if running is None else [handler for handler in running.handlers if "attention" in handler.sites]
    if waiting and running.now.attentions == before:
        raise UntappableModelError(
            type(waiting[0]).__name__,
            "a forward pass that attends",
            f"one of {type(model).__name__} in which no attention was seen",
            "compute it by torch.nn.functional.scaled_dot_product_attention or taps.attend",
        )


__all__ = ["Adapter", "adapter_for", "refuse_compiled", "refuse_compiling", "refuse_unseen"]
