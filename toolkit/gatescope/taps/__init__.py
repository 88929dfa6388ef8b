"""Taps: named places where a model shows its tensors, and lets them be changed."""

from gatescope.taps.core import (
    ALWAYS,
    SITES,
    AttentionCall,
    Event,
    GateScores,
    Handler,
    Site,
    attached,
    attend,
    tap,
)

__all__ = ["ALWAYS", "SITES", "AttentionCall", "Event", "GateScores", "Handler", "Site", "attached", "attend", "tap"]
