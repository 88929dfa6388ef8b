"""Named places in a forward pass, and the handlers that watch or edit what passes there.

A model calls ``x = tap("resid", x, layer=3)`` or ``y = attend(call, layer=3)``; with no handler attached both cost one
lookup. A handler may edit a value (interventions) or watch it (probes). At each place every edit happens before any
watching, so a probe always sees what the model went on to use, whatever the order of attaching. Edits apply in the
order of attaching. Statistics of attention are asked for by watchers and computed once, in the same call that computes
the output. Watching runs under ``no_grad``: a probe never adds to the graph of a training step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from gatescope_kernels import STATISTICS, gated_attention, gated_attention_with_stats
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal, UntappableModelError
from gatescope.taps.sites import ALWAYS, SITES, AttentionCall, Event, Handler


class _Frame:
    """One running forward pass: who listens, and the padding the model showed."""

    __slots__ = ("handlers", "key_mask")

    def __init__(self, handlers: tuple[Handler, ...]) -> None:
        self.handlers = handlers
        self.key_mask: Tensor | None = None


_frame: ContextVar[_Frame | None] = ContextVar("gatescope_taps", default=None)
_attached: WeakKeyDictionary[nn.Module, list[Handler]] = WeakKeyDictionary()
_own_forward: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def _wanting(site: str) -> tuple[_Frame | None, list[Handler]]:
    frame = _frame.get()
    return frame, [] if frame is None else [handler for handler in frame.handlers if site in handler.sites]


def _edited(handlers: list[Handler], site: str, layer: int | None, value: Any) -> Any:
    for handler in handlers:
        before, value = value, handler.edit(site, layer, value)
        kept = type(value) is type(before) or (isinstance(value, Tensor) and isinstance(before, Tensor))
        if kept and isinstance(value, Tensor):
            kept = value.shape == before.shape and value.dtype == before.dtype and value.device == before.device
        if not kept:
            raise Refusal(
                type(handler).__name__,
                f"an edit at {site!r} (layer {layer}) that keeps {_kind(before)}",
                _kind(value),
                "return the value from edit(), with the shape, dtype and device it came with",
            )
    return value


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} on {value.device}"
    return type(value).__name__


@torch.no_grad()
def _shown(handlers: list[Handler], event: Event) -> None:
    for handler in handlers:
        handler.watch(event)


def tap(site: str, value: Any, *, layer: int | None = None) -> Any:
    """Show ``value`` at ``site`` to the attached handlers and return what the model shall go on with.

    Raises Refusal for a site that is not in SITES, or an edit that changes type, shape, dtype or device.
    """
    if site not in SITES:
        raise Refusal("tap", f"a site of {tuple(SITES)}", repr(site), "add a row to taps.SITES")
    frame, handlers = _wanting(site)
    if frame is None or (not handlers and site != "key_mask"):
        return value
    value = _edited(handlers, site, layer, value)
    if site == "key_mask":
        frame.key_mask = value
    _shown(handlers, Event(site, layer, value, key_mask=frame.key_mask))
    return value


def attend(call: AttentionCall, *, layer: int | None = None) -> Float[Tensor, "B H T V"]:
    """Run one attention through the operator, letting handlers edit the call and see output and statistics.

    Raises Refusal when a handler asks for the mass on a key that this call does not have.
    """
    frame, handlers = _wanting("attention")
    if frame is None or not handlers:
        return gated_attention(**call.arguments())
    padding = call.key_mask if frame.key_mask is None else frame.key_mask
    call = _edited(handlers, "attention", layer, call)
    wanted = frozenset().union(*(handler.stats for handler in handlers))
    if not wanted:
        output, result = gated_attention(**call.arguments()), None
    else:
        stats, keys = tuple(name for name in STATISTICS if name in wanted), _keys(handlers, call.k.shape[2])
        output, result = gated_attention_with_stats(**call.arguments(), stats=stats, keys=keys)
    _shown(handlers, Event("attention", layer, call, output, result, padding))
    return output


def _keys(handlers: list[Handler], length: int) -> tuple[int, ...]:
    for handler in handlers:
        beyond = [key for key in handler.mass_keys if not 0 <= key < length]
        if beyond:
            raise Refusal(
                type(handler).__name__,
                f"keys below {length}, the number of keys of this attention",
                str(beyond),
                "give the model a longer input or choose earlier keys",
            )
    return tuple(sorted({key for handler in handlers for key in handler.mass_keys}))


@contextmanager
def attached(model: nn.Module, *handlers: Handler) -> Iterator[None]:
    """Attach handlers to every forward pass of ``model`` until the block ends, whatever ends it.

    A model emits taps when it has an attribute ``tap_sites``: the sites its forward pass shows, those of its submodules
    included. Blocks may nest and may end in any order; copies made of the model inside a block are not attached, nor
    is what activation checkpointing recomputes during backward.

    Raises UntappableModelError for a model that shows no taps or not those a handler wants, Refusal for a handler that
    is attached to the model already or names a site or statistic that does not exist.
    """
    for handler in handlers:
        _check(handler)
    _check_shown(model, handlers)
    present = _attached.setdefault(model, [])
    for place, handler in enumerate(handlers):
        if any(handler is other for other in (*present, *handlers[:place])):
            raise Refusal(
                type(handler).__name__,
                f"to be attached to {type(model).__name__} once",
                "a second time",
                "make a second handler, or leave the first block before entering it again",
            )
    if not present:
        _listen(model)
    present.extend(handlers)
    try:
        yield
    finally:
        present[:] = [other for other in present if not any(other is handler for handler in handlers)]
        if not present and _attached.pop(model, None) is not None:
            _unlisten(model)


def _check(handler: Handler) -> None:
    known = {"sites": set(SITES), "stats": {*STATISTICS, *ALWAYS}}
    for kind, names in known.items():
        unknown = set(getattr(handler, kind)) - names
        if unknown:
            raise Refusal(
                type(handler).__name__,
                f"{kind} among {sorted(names)}",
                str(sorted(unknown)),
                f"correct the handler's {kind}",
            )


def _check_shown(model: nn.Module, handlers: tuple[Handler, ...]) -> None:
    shown = getattr(model, "tap_sites", None)
    if shown is None:
        inner = next((name for name, module in model.named_modules() if hasattr(module, "tap_sites")), None)
        raise UntappableModelError(
            type(handlers[0]).__name__ if handlers else "attached",
            "a model that emits taps (attribute tap_sites)",
            f"{type(model).__name__}, which has none",
            f"attach to its submodule {inner!r}, which has"
            if inner
            else "load it as a gatescope model, or call taps.tap(...) in its forward and list the sites in tap_sites",
        )
    for handler in handlers:
        missing = handler.sites - set(shown)
        if missing:
            raise UntappableModelError(
                type(handler).__name__,
                f"sites {sorted(handler.sites)}",
                f"{type(model).__name__}, which does not show {sorted(missing)}",
                "use a model that has them, or leave this handler out",
            )


def _listen(model: nn.Module) -> None:
    """Replace ``model.forward`` for this instance. Module hooks would not do: torch skips them on KeyboardInterrupt."""
    own = model.__dict__.get("forward")
    forward = type(model).forward if own is None else own

    @wraps(forward)
    def listening(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outer = _frame.get()
        active = outer.handlers if outer is not None else ()
        new = tuple(handler for handler in _attached.get(self, ()) if not any(handler is other for other in active))
        token = _frame.set(_Frame((*active, *new)))
        try:
            return type(self).forward(self, *args, **kwargs) if own is None else own(*args, **kwargs)
        finally:
            _frame.reset(token)

    _own_forward[model] = own
    model.forward = MethodType(listening, model)


def _unlisten(model: nn.Module) -> None:
    del model.__dict__["forward"]
    own = _own_forward.pop(model)
    if own is not None:
        model.forward = own


__all__ = ["attached", "attend", "tap"]
