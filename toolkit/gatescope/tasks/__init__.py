"""Synthetic tasks, texts and images, seeded. A task to train on has ``batch(seed, size)``, see `gatescope.train.Task`
and `gatescope.train.LabelledTask`."""

from gatescope.tasks.bigram_binding import BigramBinding
from gatescope.tasks.clusters import GaussianClusters
from gatescope.tasks.digits import Digits, digits
from gatescope.tasks.mqar import MQAR
from gatescope.tasks.random_tokens import RandomTokens

__all__ = ["MQAR", "BigramBinding", "Digits", "GaussianClusters", "RandomTokens", "digits"]
