"""L1-norm filter pruning."""

from secateur.methods.l1.method import L1 as L1
from secateur.methods.l1.method import RETRAINING as RETRAINING

__all__ = ["L1", "RETRAINING"]
