"""Any criterion, iteratively, to a budget."""

from secateur.methods.global_pruning.method import GlobalPruning as GlobalPruning

__all__ = ["GlobalPruning"]
