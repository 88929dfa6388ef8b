"""Surgery: new models made from the experts of trained ones."""

from gatescope.surgery.diversify import diversify

__all__ = ["diversify"]
