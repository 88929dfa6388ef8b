"""From a study and overrides to points: every axis checked by name and value, impossible combinations named."""

from __future__ import annotations

import inspect
import itertools
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from gatescope import specs
from gatescope.errors import Refusal
from gatescope.studies.address import Versions, address, code_version, data_version
from gatescope.studies.spec import Axes, Study, Value, nearest, refuse_unknown


@dataclass(frozen=True, slots=True)
class Point:
    """One config of the grid as plain values, all fields filled in, and its address."""

    config: Mapping[str, Any]
    address: str


@dataclass(frozen=True, slots=True)
class Impossible:
    """A combination that the config refuses, and why."""

    config: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Grid:
    """A study expanded: its points, the replicates of all variants one after another, and what is impossible."""

    study: Study
    points: tuple[Point, ...]
    impossible: tuple[Impossible, ...]
    versions: Versions
    defaults: Mapping[str, Any]

    def label(self, config: Mapping[str, Any]) -> str:
        """A config in words: what makes a control, what is not the default, and the replicate at the end."""
        study = self.study
        told = [
            key
            for key, value in config.items()
            if key != study.replicate and (key in study.control or value != self.defaults.get(key))
        ]
        told += [study.replicate] if study.replicate in config else []
        return " ".join(f"{key}={config[key]}" for key in told) or "the defaults"


def resolve(point: str) -> tuple[Callable[[Any], Any], type]:
    """A point function and the dataclass of its one argument.

    Raises Refusal for a name that leads nowhere and a function of another kind.
    """
    module, _, name = point.partition(":")
    try:
        function = getattr(import_module(module), name)
        # Only the argument's annotation: that of the result may name a package that is not imported yet.
        (parameter,) = inspect.signature(inspect.unwrap(function)).parameters.values()
        held = {"__annotations__": {"config": parameter.annotation}}
        config = get_type_hints(type("_", (), held), inspect.unwrap(function).__globals__)["config"]
    except (ImportError, AttributeError, ValueError, TypeError, NameError) as error:
        got = f"{point!r} ({type(error).__name__}: {error})"
        raise Refusal(
            "study", "point = 'module:function' of one annotated argument", got, "correct the name"
        ) from error
    if not is_dataclass(config) or not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Refusal(
            "study", f"a frozen dataclass as the argument of {point}", repr(config), "write its config as one"
        )
    return function, config  # type: ignore[return-value]


def expand(study: Study, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Grid:
    """The points of a study.

    overrides  "axis=value,value" puts these values in place of the axis on every grid, or adds the axis
    only       "axis=value,value" keeps the points that have one of these values

    Values are TOML (5e-3, true, 4) or plain words. Points that come twice are one. Raises Refusal for an axis that the
    config does not have, with the nearest one it has, and for a value of the wrong kind; a combination that the config
    itself refuses is kept in `Grid.impossible`.
    """
    _, config_class = resolve(study.point)
    known = [field.name for field in fields(config_class)]
    where = f"study {study.name}"
    for axes in (*study.grids, study.control, study.match, [study.replicate]):
        refuse_unknown(where, "axes", axes, known)
    replaced, kept = (_assignments(where, given, known) for given in (overrides, only))
    grids = [{**axes, **replaced} for axes in study.grids]
    for axes in (*grids, kept):
        _check_values(where, config_class, axes)
    versions = Versions(code_version(study.code), data_version(study.data))
    # Sums over more processes round otherwise.
    function = study.point if study.processes == 1 else f"{study.point} in {study.processes} processes"
    points: dict[str, Point] = {}
    impossible: dict[str, Impossible] = {}
    for chosen in (chosen for axes in grids for chosen in _product(axes)):
        try:
            config = specs.to_dict(specs.from_dict(config_class, chosen))
        except Refusal as error:
            if _passes(chosen, kept):
                impossible.setdefault(repr(sorted(chosen.items())), Impossible(chosen, str(error)))
            continue
        if _passes(config, kept):
            point = Point(config, address(function, config, versions))
            points.setdefault(point.address, point)
    if not points and not impossible:
        raise Refusal(where, "at least one point", "none left", "loosen --only")
    order = {value: place for axes in reversed(grids) for place, value in enumerate(axes[study.replicate])}
    # Replicate by replicate, so that a run that is cut short has measured every variant.
    ordered = sorted(points.values(), key=lambda point: order[point.config[study.replicate]])
    return Grid(study, tuple(ordered), tuple(impossible.values()), versions, config_defaults(config_class))


def config_defaults(config_class: Any) -> dict[str, Any]:
    """The fields of a config, a frozen dataclass, that have a default."""
    return {field.name: field.default for field in fields(config_class) if field.default is not MISSING}


def _product(axes: Axes) -> Iterable[dict[str, Value]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _passes(config: Mapping[str, Any], kept: Axes) -> bool:
    return all(config.get(axis) in values for axis, values in kept.items())


def _assignments(where: str, texts: Sequence[str], known: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    found: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        axis, sign, values = text.partition("=")
        if not sign or not values:
            raise Refusal(where, "AXIS=VALUE,VALUE", repr(text), "write it with an equals sign and no spaces")
        refuse_unknown(where, "axes", [axis], known)
        if axis in found:
            raise Refusal(where, f"{axis} once", "twice", f"write {axis}=VALUE,VALUE")
        found[axis] = tuple(_value(value) for value in values.split(","))
    return found


def _value(text: str) -> Value:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_values(where: str, config_class: type, axes: Axes) -> None:
    """Raises Refusal for a value that no combination could make right."""
    for axis, values in axes.items():
        for value in values:
            try:
                specs.field_value(config_class, axis, value)
            except Refusal as error:
                hint = get_type_hints(config_class)[axis]
                choices = [choice for choice in getattr(hint, "__args__", ()) if isinstance(choice, str)]
                step = nearest(value, choices) if choices and isinstance(value, str) else error.next_step
                raise Refusal(where, f"{axis} as {error.wanted}", error.got, step) from error


__all__ = ["Grid", "Impossible", "Point", "config_defaults", "expand", "resolve"]
