"""Probes: streaming reducers from a forward pass to labelled numbers. Adding one is a file and a row."""

from gatescope.probes._rows import AttentionRows
from gatescope.probes._saturation import saturation
from gatescope.probes._specialisation import specialisation
from gatescope.probes.activations import ActivationSparsity
from gatescope.probes.base import Probe
from gatescope.probes.entropy import Entropy
from gatescope.probes.gates import Gates
from gatescope.probes.lens import LogitLens
from gatescope.probes.massive import Massive
from gatescope.probes.outliers import OutlierSensitivity
from gatescope.probes.residual import ResidualNorms
from gatescope.probes.routing import Routing
from gatescope.probes.sinks import Sinks
from gatescope.probes.state_size import StateSize
from gatescope.probes.value_drain import ValueDrain

_TABLE = (
    Sinks,
    Entropy,
    Massive,
    ValueDrain,
    Gates,
    Routing,
    ActivationSparsity,
    OutlierSensitivity,
    ResidualNorms,
    LogitLens,
    StateSize,
)
PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in _TABLE}

__all__ = [
    "PROBES",
    "ActivationSparsity",
    "AttentionRows",
    "Entropy",
    "Gates",
    "LogitLens",
    "Massive",
    "OutlierSensitivity",
    "Probe",
    "ResidualNorms",
    "Routing",
    "Sinks",
    "StateSize",
    "ValueDrain",
    "saturation",
    "specialisation",
]
