"""Gates: what a gate is (GateSpec), how a logit becomes a score (ACTIVATIONS), how a gate changes in training."""

from gatescope.gates.activations import ACTIVATIONS, GateActivation
from gatescope.gates.schedules import Schedule
from gatescope.gates.spec import PAPER_NAME, GateSpec

__all__ = ["ACTIVATIONS", "PAPER_NAME", "GateActivation", "GateSpec", "Schedule"]
