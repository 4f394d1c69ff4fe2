"""Magnitude pruning to a budget."""

from secateur.methods.magnitude.method import Magnitude as Magnitude

__all__ = ["Magnitude"]
