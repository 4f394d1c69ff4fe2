"""How long the dimensions of one weight are, as a function of how many units each group keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.graph import ChannelGraph
from secateur.graph.units import UnitArray


@dataclass(frozen=True, eq=False)
class WeightSizes:
    """Dimensions 0 and 1 of a weight: a constant, and a coefficient for every group.

    Attributes:
        constants: indices that belong to no group, shape (2,).
        coefficients: indices that each unit of a group owns, shape (2, groups).
    """

    constants: NDArray[np.int64]
    coefficients: NDArray[np.float64]

    def at(self, kept: UnitArray) -> tuple[int, int]:
        """Return both sizes when each group keeps ``kept`` units, shape (groups,)."""
        first, second = self.constants + np.rint(self.coefficients @ kept).astype(np.int64)
        return int(first), int(second)

    def vary_with(self, groups: Sequence[bool]) -> tuple[bool, bool]:
        """Return whether each dimension depends on any of the groups that are marked."""
        marked = self.coefficients[:, np.asarray(groups, dtype=bool)]
        return bool(marked[0].any()), bool(marked[1].any())


def weight_sizes(graph: ChannelGraph, weight: str) -> WeightSizes | None:
    """Return the sizes of a weight of at least two dimensions, or None where the graph has no such parameter."""
    spec = next((spec for spec in graph.tensors if weight == spec.name or weight in spec.aliases), None)
    if spec is None or len(spec.shape) < 2:
        return None
    constants = np.asarray(spec.shape[:2], dtype=np.int64)
    coefficients = np.zeros((2, len(graph.groups)))
    ends = np.cumsum(graph.sizes)
    for entry in graph.dims:
        if entry.parameter != spec.name or entry.dim > 1:
            continue
        units = entry.units[entry.units >= 0]
        groups = np.searchsorted(ends, units, side="right")
        counts = np.bincount(groups, minlength=len(graph.groups))
        constants[entry.dim] = spec.shape[entry.dim] - len(units)
        coefficients[entry.dim] = counts / np.maximum(graph.sizes, 1)
    return WeightSizes(constants, coefficients)
