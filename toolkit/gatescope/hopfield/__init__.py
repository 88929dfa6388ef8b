"""Hopfield memories with continuous states: the update that is attention, the energy it lowers, and what is proved."""

from gatescope.hopfield.bounds import retrieval_bound, separation
from gatescope.hopfield.capacity import capacity, retrieved_share, sphere
from gatescope.hopfield.memory import Retrieval, energy, retrieve, update

__all__ = [
    "Retrieval",
    "capacity",
    "energy",
    "retrieval_bound",
    "retrieve",
    "retrieved_share",
    "separation",
    "sphere",
    "update",
]
