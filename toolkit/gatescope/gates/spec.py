"""A gate variant is a frozen spec, never a boolean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gatescope.errors import Refusal
from gatescope.gates.activations import ACTIVATIONS

Position = Literal["sdpa", "value", "key", "query", "output"]
Granularity = Literal["element", "head"]
Sharing = Literal["per_head", "shared"]
Combine = Literal["multiply", "add"]
GateInput = Literal["token", "none"]

#: The paper's names for the positions (Qiu et al. 2025, figure 1).
PAPER_NAME: dict[str, str] = {"sdpa": "G1", "value": "G2", "key": "G3", "query": "G4", "output": "G5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """Where a gate sits in attention and how it acts (Qiu et al. 2025, section 2.2).

        Y' = Y * act(X W_g + b)        (combine="multiply")
        Y' = Y + act(X W_g + b)        (combine="add")

    X is the pre-normed layer input. Y is what the position names: ``sdpa`` the attention output of each head (G1),
    ``value`` (G2), ``key`` (G3), ``query`` (G4), ``output`` the result of W_O (G5).

    granularity  "element": one score a channel; "head": one score a head. ``output`` has no heads: element only.
    sharing      "per_head": every head has scores of its own; "shared": one set of scores serves all heads.
    activation   a row of gates.ACTIVATIONS.
    input        "token": logits are projected from X; "none": logits are parameters, the same for every token.
    bias_init    initial b; None leaves the bias out, as in the released code (scores then start near 0.5).
    weight_std   standard deviation of the initial W_g (released code: 0.02).

    Raises Refusal for a value outside these lists.
    """

    position: Position
    granularity: Granularity = "element"
    sharing: Sharing = "per_head"
    activation: str = "sigmoid"
    combine: Combine = "multiply"
    input: GateInput = "token"
    bias_init: float | None = None
    weight_std: float = 0.02

    def __post_init__(self) -> None:
        choices = {
            "position": get_args(Position),
            "granularity": get_args(Granularity),
            "sharing": get_args(Sharing),
            "activation": tuple(ACTIVATIONS),
            "combine": get_args(Combine),
            "input": get_args(GateInput),
        }
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                raise Refusal("GateSpec", f"{field} in {allowed}", repr(value), f"choose one of {', '.join(allowed)}")
        if self.position == "output" and (self.granularity, self.sharing) != ("element", "per_head"):
            raise Refusal(
                "GateSpec",
                "granularity='element', sharing='per_head' at position 'output' (W_O has already mixed the heads)",
                f"granularity={self.granularity!r}, sharing={self.sharing!r}",
                "use position='sdpa' for a gate that knows heads",
            )

    @property
    def paper_name(self) -> str:
        """G1 to G5."""
        return PAPER_NAME[self.position]
