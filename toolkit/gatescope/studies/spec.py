"""What a study is, and the TOML file that says it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from gatescope.errors import Refusal

Value = str | int | float | bool
Axes = Mapping[str, tuple[Value, ...]]
Reduction = Literal["max", "min", "mean", "first", "last"]
Better = Literal["less", "greater"]

#: Where the studies of this project lie.
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number a point, read off its record.

    name      what tables call it
    variable  of the record
    at        dimension -> the label on it where the variable is taken, before the rest is reduced
    over      how each of the other dimensions is reduced, in this order; none may be left
    better    where good values lie, for the list of best and worst points

    Raises Refusal for a rule that is not in `Reduction`, and a dimension under both ``at`` and ``over``.
    """

    name: str
    variable: str
    at: Mapping[str, Value] = field(default_factory=dict)
    over: Mapping[str, str] = field(default_factory=dict)
    better: str = "less"

    def __post_init__(self) -> None:
        for dim, rule in self.over.items():
            if rule not in get_args(Reduction):
                got = f"{rule!r} over {dim}"
                raise Refusal(f"metric {self.name}", f"a reduction of {get_args(Reduction)}", got, "choose one of them")
        if both := [dim for dim in self.at if dim in self.over]:
            raise Refusal(f"metric {self.name}", "a dimension under at or over", f"{both} under both", "keep one")
        if self.better not in get_args(Better):
            raise Refusal(f"metric {self.name}", f"better {get_args(Better)}", repr(self.better), "choose one of them")

    @property
    def reduction(self) -> str:
        """What is done to the variable, in words: ", at length 512, max over layer"."""
        words = [f"at {dim} {label}" for dim, label in self.at.items()]
        return "".join(f", {word}" for word in (*words, *(f"{rule} over {dim}" for dim, rule in self.over.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A grid of points, how each is measured, and what is compared with what.

    name       of the file, without .toml
    title      one line
    point      "module:function" of one argument, a frozen dataclass, whose fields are the axes
    code       modules whose sources make the code version of a point's address; a package stands for all inside
    grids      each is a full product of its axes; a study is their union
    replicate  the axis of independent repetitions, over which effects are averaged
    control    values of a config that make it the one the others are compared with
    match      axes on which a point and its control agree, beside the replicate
    metrics    what is compared
    data       files of data/ that points read; their digests are part of the address
    processes  that measure one point together, as torchrun starts them

    Raises Refusal for a study without a grid, without metrics, without replicates on a grid, or without a process.
    """

    name: str
    title: str
    point: str
    code: tuple[str, ...]
    grids: tuple[Axes, ...]
    metrics: tuple[Metric, ...]
    replicate: str = "seed"
    control: Mapping[str, Value] = field(default_factory=dict)
    match: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    processes: int = 1

    def __post_init__(self) -> None:
        where = f"study {self.name}"
        for name, held in (("[[grid]]", self.grids), ("[[metric]]", self.metrics), ("code", self.code)):
            if not held:
                raise Refusal(where, f"at least one {name}", "none", "write one")
        if self.processes < 1:
            raise Refusal(where, "processes of 1 or more", str(self.processes), "leave it out for one")
        if any(self.replicate not in axes for axes in self.grids):
            got = f"a grid of {', '.join(next(axes for axes in self.grids if self.replicate not in axes))}"
            raise Refusal(where, f"the axis {self.replicate!r} on every grid", got, "put it under [axes]")
        empty = [name for axes in self.grids for name, values in axes.items() if not values]
        if empty:
            raise Refusal(where, "a value on every axis", f"none on {', '.join(empty)}", "remove the axis, or fill it")


def names() -> list[str]:
    """The studies of this project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str | Path) -> Study:
    """The study ``name`` of this project, or the one in a TOML file of your own.

    A study that says ``like = "other"`` takes from that study of this project whatever it does not say itself, but for
    its grid and its axes.

    Raises Refusal for an unknown name, a file that is not TOML, and keys that no study has, with the nearest known one.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in names():
            raise Refusal("study", "a study of this project, or a .toml file", repr(name), nearest(str(name), names()))
        path = FOLDER / f"{name}.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refusal("study", f"a TOML file at {path}", f"{type(error).__name__}: {error}", "correct it") from error
    return _study(path.stem, _inherited(path.stem, found))


def nearest(word: str, known: Collection[str]) -> str:
    """The next step after an unknown word."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known) or 'none'}"


def refuse_unknown(operator: str, what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises Refusal for the first word that is not known, with the nearest one that is."""
    for word in given:
        if word not in known:
            raise Refusal(operator, f"{what} among {', '.join(known)}", repr(word), nearest(word, known))


def _inherited(name: str, found: dict[str, Any]) -> dict[str, Any]:
    if "like" not in found:
        return found
    own = {key: value for key, value in found.items() if key != "like"}
    model = found["like"]
    if model not in names() or model == name:
        known = [other for other in names() if other != name]
        raise Refusal(f"study {name}", "like = another study of this project", repr(model), nearest(str(model), known))
    other = tomllib.loads((FOLDER / f"{model}.toml").read_text(encoding="utf-8"))
    if "like" in other:
        raise Refusal(f"study {name}", "like = a study that stands for itself", repr(model), f"name {other['like']!r}")
    return {key: value for key, value in other.items() if key not in ("grid", "axes", "title")} | own


def _study(name: str, found: dict[str, Any]) -> Study:
    where = f"study {name}"
    allowed = ("title", "point", "code", "data", "replicate", "control", "match", "processes", "axes", "grid", "metric")
    refuse_unknown(where, "keys", found, allowed)
    lacking = [key for key in ("title", "point", "code", "grid", "metric") if key not in found]
    if lacking:
        raise Refusal(where, f"the keys {', '.join(lacking)}", "none of them", "add them; see another study's file")
    shared = found.get("axes", {})
    return Study(
        name=name,
        title=found["title"],
        point=found["point"],
        code=tuple(found["code"]),
        data=tuple(found.get("data", ())),
        replicate=found.get("replicate", "seed"),
        control=found.get("control", {}),
        match=tuple(found.get("match", ())),
        processes=found.get("processes", 1),
        grids=tuple(
            {
                axis: tuple(values if isinstance(values, list) else [values])
                for axis, values in {**shared, **own}.items()
            }
            for own in found["grid"]
        ),
        metrics=tuple(_metric(where, table) for table in found["metric"]),
    )


def _metric(where: str, table: dict[str, Any]) -> Metric:
    refuse_unknown(where, "keys of a [[metric]]", table, [field.name for field in fields(Metric)])
    if not {"name", "variable"} <= table.keys():
        raise Refusal(where, "name and variable in every [[metric]]", ", ".join(table), "add them")
    return Metric(**table)


__all__ = ["Axes", "Metric", "Study", "Value", "load", "names", "nearest", "refuse_unknown"]
