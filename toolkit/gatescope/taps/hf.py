"""Hugging Face models: their attention through AttentionInterface, their other places by the table of families.

While handlers are attached the model's configs name the attention "gatescope", which is registered once and attends
through the operator; its modules carry hooks, and its base model a forward that shows tokens and padding. All of it is
undone when the last handler goes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import RLock
from types import MethodType
from typing import Any

import torch
from torch import nn

from gatescope.errors import Refusal, UntappableModelError
from gatescope.taps import hf_hooks
from gatescope.taps.core import frame, listeners, tap
from gatescope.taps.families import FAMILIES, Family
from gatescope.taps.foreign import Adapter, refuse_unseen
from gatescope.taps.hf_attention import NAME, register
from gatescope.taps.masks import Mask

_lock = RLock()
#: What is installed, by id of a base model or a config: how many need it, and how to undo it.
_installed: dict[int, tuple[int, ExitStack]] = {}


def adapter_of(model: nn.Module) -> HuggingFaceAdapter:
    """The adapter of a model of transformers. Raises UntappableModelError naming what to attach to, or why not."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        inner = [name for name, module in model.named_modules() if isinstance(module, PreTrainedModel)]
        outermost = [name for name in inner if not any(name.startswith(f"{other}.") for other in inner)]
        raise UntappableModelError(
            "attached",
            "a whole model of transformers",
            f"{type(model).__name__}, which holds {outermost}" if inner else f"{type(model).__name__}, a part of one",
            f"attach to {' or '.join(f'the submodule {name!r}' for name in outermost) or 'the model it belongs to'}",
        )
    classes = [
        kind for kind in type(model).__mro__ if issubclass(kind, PreTrainedModel) and kind is not PreTrainedModel
    ]
    if not any(kind._can_set_attn_implementation() for kind in classes):
        raise UntappableModelError(
            "attached",
            "a model whose attention goes through transformers' AttentionInterface",
            f"{type(model).__name__}, which computes it in its own way",
            "use a model of another family, or call taps.attend in a copy of its attention",
        )
    return HuggingFaceAdapter(model)


class HuggingFaceAdapter(Adapter):
    """Makes one PreTrainedModel emit taps.

    A model whose model_type has a row in FAMILIES shows what the row names; any other shows tokens, padding and
    attention.
    """

    more = "add a row for its model_type to taps.FAMILIES, or leave this handler out"

    def __init__(self, model: Any) -> None:
        self.model, self.base = model, model.base_model
        self.family: Family | None = FAMILIES.get(self.base.config.model_type)
        self.hooks = [] if self.family is None else hf_hooks.places(self.base, self.family)
        self._head = self.family is not None and self.family.head is not None and hasattr(model, self.family.head)
        places = {place.site for place in self.hooks} if self.family else {"attention"}
        self.sites = frozenset({"tokens", "key_mask", *places, *(["logits"] if self._head else [])})

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Switch the attention of every config in the model, hook its modules, wrap its base model."""
        register()
        configs = {id(config): config for module in self.model.modules() if (config := _config_of(module)) is not None}
        with ExitStack() as stack:
            for config in configs.values():
                stack.enter_context(_counted(config, _switched))
            stack.enter_context(_counted(self.base, self._tapped))
            yield

    @contextmanager
    def _tapped(self, base: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for place in self.hooks:
                if place.register is not None:
                    stack.callback(place.register().remove)
            own = base.__dict__.get("forward")
            base.forward = MethodType(_showing_inputs(base, own), base)
            stack.callback(_restore_forward, base, own)
            yield

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One forward pass. Raises UntappableModelError for output_attentions, and where no attention was seen."""
        self._refuse_settings(kwargs)
        running = frame.get()
        before = 0 if running is None else running.now.attentions
        output = forward(*args, **kwargs)
        refuse_unseen(self.model, before)
        return self._showing_logits(output) if self._head and listeners("logits") else output

    def _showing_logits(self, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        place = next(place for place, x in enumerate(output) if x.dim() == 3) if is_tuple else 0  # behind any losses
        logits = output[place] if is_tuple else output.logits
        edited = tap("logits", logits)
        if edited is logits:
            return output
        if place or getattr(output, "loss", None) is not None:
            raise Refusal(
                "attached",
                "logits to edit before anything is computed of them",
                f"a loss that {type(self.model).__name__} computed already",
                "leave out labels and compute the loss from the logits",
            )
        if is_tuple:
            return (edited, *output[1:])
        output.logits = edited
        return output

    def _refuse_settings(self, kwargs: Mapping[str, Any]) -> None:
        config, name = self.base.config, type(self.model).__name__
        asked = kwargs.get("output_attentions")
        if asked or (asked is None and getattr(config, "output_attentions", False)):
            raise UntappableModelError(
                "attached",
                f"{name} without output_attentions, which would hold T x T",
                "output_attentions=True",
                "leave it out: probes read statistics of attention; or run the model outside the block",
            )
        if getattr(config, "chunk_size_feed_forward", 0) and self.hooks:
            raise UntappableModelError(
                "attached", f"{name} with whole MLPs", "chunk_size_feed_forward", "set it to 0 in the config"
            )
        if self.model.training and torch.is_grad_enabled() and self.model.is_activation_checkpointing:
            raise UntappableModelError(
                "attached",
                f"{name} without activation checkpointing",
                "a backward pass that would compute the blocks again without handlers",
                "measure under torch.no_grad() beside the step, or call model.activation_checkpointing_disable()",
            )


def _showing_inputs(base: nn.Module, own: Callable[..., Any] | None) -> Callable[..., Any]:
    """The forward of a base model that first shows the tokens and the padding it was given."""
    forward = type(base).forward if own is None else own
    order = [name for name in inspect.signature(forward).parameters if name != "self"]

    @wraps(forward)
    def showing(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if frame.get() is not None:
            given = {**dict(zip(order, args, strict=False)), **kwargs}
            changed = {}
            if given.get("input_ids") is not None:
                changed["input_ids"] = tap("tokens", given["input_ids"])
            mask = given.get("attention_mask")
            text = _text(mask)
            edited = tap("key_mask", text)
            if edited is not text:
                if isinstance(mask, dict):
                    raise Refusal("attached", "a 2-D attention_mask to edit", "prepared masks", "pass the 2-D mask")
                changed["attention_mask"] = edited
            args = tuple(changed.pop(name, value) for name, value in zip(order, args, strict=False))
            kwargs |= changed
        return type(self).forward(self, *args, **kwargs) if own is None else own(*args, **kwargs)

    return showing


def _text(mask: Any) -> torch.Tensor | None:
    """True on text, or None without padding, from the attention_mask a model was given."""
    if isinstance(mask, dict):
        described = [part.key_mask for part in mask.values() if isinstance(part, Mask)]
        return next((part for part in described if part is not None), None)
    if mask is None or mask.dim() != 2 or bool(mask.all()):
        return None
    return mask.bool()


def _config_of(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    return config if hasattr(config, "_attn_implementation_internal") else None


@contextmanager
def _switched(config: Any) -> Iterator[None]:
    before = config._attn_implementation_internal
    config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        config._attn_implementation_internal = before


@contextmanager
def _counted(thing: Any, change: Callable[[Any], Any]) -> Iterator[None]:
    """``change(thing)`` for as long as anyone is inside: models share configs, and parts are attached beside wholes."""
    with _lock:
        count, stack = _installed.get(id(thing), (0, None))
        if stack is None:
            with ExitStack() as entering:
                entering.enter_context(change(thing))
                stack = entering.pop_all()
        _installed[id(thing)] = (count + 1, stack)
    try:
        yield
    finally:
        with _lock:
            count, stack = _installed.pop(id(thing))
            if count > 1:
                _installed[id(thing)] = (count - 1, stack)
            else:
                stack.close()


def _restore_forward(base: nn.Module, own: Any) -> None:
    del base.__dict__["forward"]
    if own is not None:
        base.forward = own


__all__ = ["HuggingFaceAdapter", "adapter_of"]
