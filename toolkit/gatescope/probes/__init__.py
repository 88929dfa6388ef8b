"""Probes: streaming reducers from a forward pass to labelled numbers. Adding one is a file and a row."""

from gatescope.probes.base import Probe
from gatescope.probes.entropy import Entropy
from gatescope.probes.gates import Gates
from gatescope.probes.massive import Massive
from gatescope.probes.sinks import Sinks
from gatescope.probes.value_drain import ValueDrain

_TABLE = (Sinks, Entropy, Massive, ValueDrain, Gates)
PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in _TABLE}

__all__ = ["PROBES", "Entropy", "Gates", "Massive", "Probe", "Sinks", "ValueDrain"]
