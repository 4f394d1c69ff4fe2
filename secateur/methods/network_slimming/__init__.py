"""Network Slimming."""

from secateur.methods.network_slimming.method import NetworkSlimming as NetworkSlimming
from secateur.methods.network_slimming.published import TRAINING as TRAINING

__all__ = ["TRAINING", "NetworkSlimming"]
