"""Synthetic tasks and texts, seeded. A task to train on has ``batch(seed, size) -> (tokens [B T], mask [B T])``."""

from gatescope.tasks.bigram_binding import BigramBinding

__all__ = ["BigramBinding"]
