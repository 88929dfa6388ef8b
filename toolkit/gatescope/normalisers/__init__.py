"""What turns a row of scores into weights, softmax and its alternatives, one row each in NORMALISERS.

Every row is the gradient of a convex potential of the scores, so each is also the update of a Hopfield memory whose
energy is built from that potential (`gatescope.hopfield`).
"""

from gatescope.normalisers.bounds import entropy_floor
from gatescope.normalisers.measures import entropy, state_size
from gatescope.normalisers.spec import SOFTMAX, NormaliserSpec, normalise, potential
from gatescope.normalisers.table import NORMALISERS, Normaliser

__all__ = [
    "NORMALISERS",
    "SOFTMAX",
    "Normaliser",
    "NormaliserSpec",
    "entropy",
    "entropy_floor",
    "normalise",
    "potential",
    "state_size",
]
