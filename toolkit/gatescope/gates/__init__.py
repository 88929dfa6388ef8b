"""Gates: what a gate is (GateSpec) and how a logit becomes a score (ACTIVATIONS)."""

from gatescope.gates.activations import ACTIVATIONS, GateActivation
from gatescope.gates.spec import PAPER_NAME, GateSpec

__all__ = ["ACTIVATIONS", "PAPER_NAME", "GateActivation", "GateSpec"]
