"""What a latency table is: something that predicts the latency of a plan not yet applied."""

from typing import Protocol

from secateur.graph import ChannelGraph
from secateur.graph.units import UnitArray


class LatencyTable(Protocol):
    """Predicts latency from kept sizes; it is measured on one runtime and machine."""

    def latency_ms(self, graph: ChannelGraph, kept: UnitArray) -> float:
        """Return milliseconds per forward pass when each group keeps ``kept`` units, shape (groups,)."""
