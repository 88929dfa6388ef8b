"""What an intervention is: an edit at one site, its layers, its control, and the proof that it applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import nn

from gatescope.errors import Refusal
from gatescope.taps import Handler, attached

Indices = int | Sequence[int]


class Intervention(Handler):
    """Edits what passes at one site, in some layers.

    A subclass names its row in INTERVENTIONS (``name``), says what it does (``equation``) and what its control does
    (``control_rule``), and implements `apply` and `control`. ``where`` holds the layers to change, None for all.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    control_rule: ClassVar[str]
    where: tuple[int, ...] | None = None

    def apply(self, value: Any, layer: int | None) -> Any:
        """The changed value."""
        raise NotImplementedError

    def control(self, seed: int) -> Intervention:
        """The matched control: as much change, elsewhere. The same seed gives the same control."""
        raise NotImplementedError

    def edit(self, site: str, layer: int | None, value: Any) -> Any:
        """The value of a layer in ``where`` changed, any other as it came."""
        self._seen().add(layer)
        return self.apply(value, layer) if self.where is None or layer in self.where else value

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[Self]:
        """Change every forward pass of ``model`` until the block ends.

        Raises UntappableModelError for a model that does not show the site, and when the block ends without an error
        of its own, Refusal if the model never ran or never reached one of the layers.
        """
        self._layers_seen: set[int | None] = set()
        with attached(model, self):
            yield self
        seen = sorted(layer for layer in self._seen() if layer is not None)
        missed = sorted(set(self.where or ()) - set(seen))
        if not self._seen() or missed:
            raise Refusal(
                type(self).__name__,
                f"to change layers {missed} of {type(model).__name__}" if missed else "a forward pass inside the block",
                f"only layers {seen} at {', '.join(sorted(self.sites))!r}" if seen else "none: nothing was changed",
                "choose among the layers the model has" if seen else f"call the {type(model).__name__} in the block",
            )

    @classmethod
    def describe(cls) -> dict[str, str]:
        """What this intervention does and what its control does, as one row of documentation."""
        return {
            "intervention": cls.name,
            "site": ", ".join(sorted(cls.sites)),
            "equation": cls.equation,
            "control": cls.control_rule,
        }

    def _seen(self) -> set[int | None]:
        if not hasattr(self, "_layers_seen"):
            self._layers_seen = set()
        return self._layers_seen


@dataclass(frozen=True, slots=True)
class Draw:
    """``count`` different indices drawn with ``seed`` among those not in ``avoid``; drawn once the range is known."""

    count: int
    avoid: tuple[int, ...]
    seed: int

    def among(self, allowed: Sequence[int], owner: str) -> tuple[int, ...]:
        """The drawn indices, the same for the same ``allowed``. Raises Refusal when there are too few."""
        pool = [index for index in allowed if index not in self.avoid]
        if len(pool) < self.count:
            raise Refusal(
                f"{owner}.control",
                f"{self.count} others to draw from",
                f"{len(pool)} of {len(allowed)}",
                "change fewer, or use a longer input",
            )
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return tuple(sorted(pool[place] for place in order[: self.count]))


def indices(owner: str, what: str, given: Indices) -> tuple[int, ...]:
    """``given`` as a sorted tuple of different indices. Raises Refusal for none, negative or repeated ones."""
    found = _listed(given)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise Refusal(owner, f"{what}: different indices from 0 on, at least one", str(list(found)), "name each once")
    return tuple(sorted(found))


def chosen(owner: str, what: str, given: Indices | Draw, allowed: range) -> tuple[int, ...]:
    """``given``, drawn now if it is a Draw. Raises Refusal for an index beyond ``allowed`` = range(size)."""
    size = len(allowed)
    named = given.avoid if isinstance(given, Draw) else _listed(given)
    beyond = [index for index in named if index >= size]
    if beyond:
        raise Refusal(owner, f"{what} below {size}", str(beyond), f"choose among 0..{size - 1}")
    return given.among(allowed, owner) if isinstance(given, Draw) else named


def matched(owner: str, given: Indices | Draw, seed: int, avoid: tuple[int, ...] = ()) -> Draw:
    """A Draw of as many others. Raises Refusal when ``given`` is a control's draw already."""
    if isinstance(given, Draw):
        raise Refusal(f"{owner}.control", "an intervention", "a control", "call control() on the intervention itself")
    named = _listed(given)
    return Draw(len(named), tuple(sorted({*named, *avoid})), seed)


def _listed(given: Indices) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else tuple(int(index) for index in given)


__all__ = ["Draw", "Indices", "Intervention", "chosen", "indices", "matched"]
