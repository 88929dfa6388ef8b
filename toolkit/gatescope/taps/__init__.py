"""Taps: named places where a model shows its tensors, and lets them be changed."""

from gatescope.taps.attaching import attached, shown
from gatescope.taps.blocks import BlockMask
from gatescope.taps.core import attend, tap
from gatescope.taps.families import FAMILIES, Family
from gatescope.taps.sites import (
    ALWAYS,
    SITES,
    AttentionCall,
    Event,
    GateScores,
    Handler,
    LinearAttentionCall,
    RouterScores,
    Site,
)

__all__ = [
    "ALWAYS",
    "FAMILIES",
    "SITES",
    "AttentionCall",
    "BlockMask",
    "Event",
    "Family",
    "GateScores",
    "Handler",
    "LinearAttentionCall",
    "RouterScores",
    "Site",
    "attached",
    "attend",
    "shown",
    "tap",
]
