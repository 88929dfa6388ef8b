"""Taps: named places where a model shows its tensors, and lets them be changed."""

from gatescope.taps.core import (
    SITES,
    AttentionCall,
    Event,
    Handler,
    Site,
    attached,
    attend,
    tap,
)

__all__ = ["SITES", "AttentionCall", "Event", "Handler", "Site", "attached", "attend", "tap"]
