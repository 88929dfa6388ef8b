"""Frozen specs to plain dictionaries and back, strictly: what a file says is what a model gets, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gatescope.errors import Refusal

Spec = TypeVar("Spec")


def to_dict(spec: Any) -> dict[str, Any]:
    """A spec (a dataclass, nested ones included) as dictionaries, lists and scalars that JSON can carry."""
    return json.loads(json.dumps(asdict(spec)))


def from_dict(cls: type[Spec], data: Any) -> Spec:
    """The inverse of `to_dict`.

    Raises Refusal for a key the spec does not have, a key without a default that is missing, a value of another type,
    and whatever the spec itself refuses.
    """
    if not isinstance(data, Mapping):
        raise Refusal(cls.__name__, "a mapping of its fields", f"{data!r}", "write it with specs.to_dict")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise Refusal(
            cls.__name__, f"only the fields {', '.join(known)}", f"also {', '.join(unknown)}", "remove or rename them"
        )
    missing = [
        name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise Refusal(cls.__name__, f"the fields {', '.join(missing)}", "none of them", "add them")
    hints = get_type_hints(cls)
    return cls(**{name: _value(f"{cls.__name__}.{name}", hints[name], value) for name, value in data.items()})


def field_value(cls: type, name: str, value: Any) -> Any:
    """``value`` as `from_dict` takes it for field ``name`` of a spec. Raises Refusal for a value of another type."""
    return _value(f"{cls.__name__}.{name}", get_type_hints(cls)[name], value)


def _value(where: str, hint: Any, value: Any) -> Any:
    """``value`` as the annotation wants it: nested specs built, lists back to tuples, integers widened to float."""
    if is_dataclass(hint):
        return from_dict(hint, value)  # type: ignore[arg-type]
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        options = sorted((option for option in get_args(hint) if option is not NoneType), key=_foreign(value))
        errors = []
        for option in options:
            try:
                return _value(where, option, value)
            except Refusal as error:
                errors.append(error)
        raise errors[0]
    if origin is Literal:
        fits = value in get_args(hint)
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_value(where, get_args(hint)[0], item) for item in value)
        fits = False
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    else:
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        wanted = hint.__name__ if isinstance(hint, type) else str(hint)
        raise Refusal(where, wanted, f"{value!r}", "correct the value")
    return value


def _foreign(value: Any) -> Callable[[Any], int]:
    """How many keys of ``value`` an option does not know: an error then speaks of the spec that was meant."""

    def count(option: Any) -> int:
        if not isinstance(value, Mapping):
            return 0
        if not is_dataclass(option):
            return len(value) + 1
        return len(set(value) - {field.name for field in fields(option)})

    return count


__all__ = ["field_value", "from_dict", "to_dict"]
