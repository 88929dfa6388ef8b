"""Attaching handlers to a model, whoever wrote it, and detaching them whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from gatescope_kernels import STATISTICS
from torch import nn

from gatescope.errors import Refusal, UntappableModelError
from gatescope.taps.core import Frame, Pass, frame
from gatescope.taps.foreign import Adapter, adapter_for, refuse_compiled, refuse_compiling
from gatescope.taps.sites import ALWAYS, SITES, Handler

_attached: WeakKeyDictionary[nn.Module, list[Handler]] = WeakKeyDictionary()
_listening: WeakKeyDictionary[nn.Module, ExitStack] = WeakKeyDictionary()


@contextmanager
def attached(model: nn.Module, *handlers: Handler) -> Iterator[None]:
    """Attach handlers to every forward pass of ``model`` until the block ends, whatever ends it.

    A model emits taps when it has an attribute ``tap_sites``: the sites its forward pass shows, those of its submodules
    included. Models of Hugging Face transformers and plain PyTorch models that call scaled_dot_product_attention are
    made to while handlers are attached (`taps.foreign`). Blocks may nest and may end in any order; copies made of the
    model inside a block are not attached, nor is what activation checkpointing recomputes during backward.

    Raises UntappableModelError for a model that shows no taps or not those a handler wants, Refusal for a handler that
    is attached to the model already or names a site or statistic that does not exist.
    """
    for handler in handlers:
        _check(handler)
    refuse_compiled(model)
    adapter = None if hasattr(model, "tap_sites") else adapter_for(model)
    more = "use a model that has them, or leave this handler out" if adapter is None else adapter.more
    _check_shown(model, handlers, shown(model) if adapter is None else adapter.sites, more)
    present = _attached.setdefault(model, [])
    for place, handler in enumerate(handlers):
        if any(handler is other for other in (*present, *handlers[:place])):
            raise Refusal(
                type(handler).__name__,
                f"to be attached to {type(model).__name__} once",
                "a second time",
                "make a second handler, or leave the first block before entering it again",
            )
    try:
        if not present:
            _listen(model, adapter)
        present.extend(handlers)
        yield
    finally:
        present[:] = [other for other in present if not any(other is handler for handler in handlers)]
        if not present and _attached.pop(model, None) is not None:
            _listening.pop(model, ExitStack()).close()


def shown(model: nn.Module) -> frozenset[str]:
    """The sites of SITES that a forward pass of ``model`` can show; none for a model that cannot be tapped.

    Raises UntappableModelError for a model whose kind is known and that cannot be tapped as it is.
    """
    named: Any = getattr(model, "tap_sites", None)
    if named is not None:
        return frozenset(named)
    adapter = adapter_for(model)
    return frozenset() if adapter is None else adapter.sites


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


def _check_shown(model: nn.Module, handlers: tuple[Handler, ...], sites: frozenset[str], more: str) -> None:
    if not sites:
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
        missing = handler.sites - sites
        if "mlp" in missing and "router" in sites:
            more = "leave this handler out: experts keep their hidden activations inside one product"
        if missing:
            raise UntappableModelError(
                type(handler).__name__,
                f"sites {sorted(handler.sites)}",
                f"{type(model).__name__}, which does not show {sorted(missing)}",
                more,
            )


def _listen(model: nn.Module, adapter: Adapter | None) -> None:
    """Replace ``model.forward`` for this instance. Module hooks would not do: torch skips them on KeyboardInterrupt."""
    with ExitStack() as stack:
        if adapter is not None:
            stack.enter_context(adapter.installed())
        own = model.__dict__.get("forward")
        forward = type(model).forward if own is None else own

        @wraps(forward)
        def listening(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            refuse_compiling(self)
            outer = frame.get()
            active, now = ((), Pass()) if outer is None else (outer.handlers, outer.now)
            new = tuple(handler for handler in _attached.get(self, ()) if not any(handler is other for other in active))
            token = frame.set(Frame((*active, *new), now))
            try:
                call = partial(type(self).forward, self) if own is None else own
                return call(*args, **kwargs) if adapter is None else adapter.run(call, args, kwargs)
            finally:
                frame.reset(token)

        model.forward = MethodType(listening, model)
        stack.callback(_restore, model, own)
        _listening[model] = stack.pop_all()


def _restore(model: nn.Module, own: Any) -> None:
    del model.__dict__["forward"]
    if own is not None:
        model.forward = own


__all__ = ["attached", "shown"]
