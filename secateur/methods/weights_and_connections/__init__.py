"""Learning both weights and connections: weights of small magnitude go, the rest is retrained."""

from secateur.methods.weights_and_connections.method import WeightsAndConnections as WeightsAndConnections
from secateur.methods.weights_and_connections.regrowing import Regrow as Regrow

__all__ = ["Regrow", "WeightsAndConnections"]
