"""Magnitude pruning to a budget."""

from secateur.methods.magnitude.method import Magnitude as Magnitude
from secateur.methods.magnitude.method import decide as decide

__all__ = ["Magnitude", "decide"]
