"""Bytes of the file that a plan would be saved as."""

import numpy as np

from secateur.graph import ChannelGraph
from secateur.graph.channel_graph import UnitArray


def size_bytes(graph: ChannelGraph, kept: UnitArray) -> int:
    """Return the bytes of all saved tensors when each group keeps ``kept`` units, shape (groups,).

    Parameters and persistent buffers, tied ones once. The file's header (names, shapes, the plan: some kilobytes)
    comes on top.
    """
    width = np.asarray([spec.element_bytes * spec.is_persistent for spec in graph.tensors], dtype=np.int64)
    return int((graph.costs.elements(kept) * width).sum())
