"""Taps: named places where a model shows its tensors, and lets them be changed."""

from gatescope.taps.core import attached, attend, tap
from gatescope.taps.sites import ALWAYS, SITES, AttentionCall, Event, GateScores, Handler, RouterScores, Site

__all__ = [
    "ALWAYS",
    "SITES",
    "AttentionCall",
    "Event",
    "GateScores",
    "Handler",
    "RouterScores",
    "Site",
    "attached",
    "attend",
    "tap",
]
