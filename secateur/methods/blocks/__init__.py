"""Whole residual branches, by what dropping them costs or by any criterion."""

from secateur.methods.blocks.method import Blocks as Blocks

__all__ = ["Blocks"]
