"""Which axis carries the channels where a dimension is seen as several: whole heads, or channels of every head.

A trace lets the longest axis carry. For attention that is the size of a head, which the scale and the products of
queries with keys read; heads themselves are independent, so that they can be cut whole. Where the first choice is
locked or paired in such a product, a second trace lets the other axis carry.
"""

import numpy as np

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.labels import IntArray
from secateur.graph.recorded import Axes, Record, Split


def other_axes(record: Record, graph: ChannelGraph, unit_of_atom: IntArray) -> Axes:
    """Return the splits that another axis should carry, with that axis; empty if all are well as they are."""
    paired = _paired_units(record, unit_of_atom)
    wanted: dict[str, set[int]] = {}
    for split in record.splits.values():
        units = unit_of_atom[split.line]
        if _is_locked(graph, units) or paired[units].any():
            other = _other(split)
            wanted.setdefault(split.module, set()).add(split.block.shape[other])
    axes: Axes = {}
    for place, split in record.splits.items():
        other = _other(split)
        # Queries, keys and values of one module go the same way, else heads would meet channels of heads.
        if split.block.shape[other] in wanted.get(split.module, ()):
            axes[place] = other
    return axes


def helpful(axes: Axes, record: Record, graph: ChannelGraph, unit_of_atom: IntArray) -> Axes:
    """Return those of ``axes`` in whose module a trace with them left something that can be cut."""
    modules = {
        split.module
        for place, split in record.splits.items()
        if place in axes and _is_prunable(graph, unit_of_atom[split.line])
    }
    return {
        place: axis for place, axis in axes.items() if place in record.splits and record.splits[place].module in modules
    }


def _other(split: Split) -> int:
    """Return the nearest other axis: of (3, heads, channels) the heads, however few there are."""
    others = (axis for axis in split.varying if axis != split.axis)
    return min(others, key=lambda axis: (abs(axis - split.axis), -split.block.shape[axis], -axis))


def _paired_units(record: Record, unit_of_atom: IntArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    paired = np.zeros(int(unit_of_atom.max(initial=-1)) + 2, dtype=bool)
    for atoms in record.paired:
        paired[unit_of_atom[atoms]] = True
    paired[-1] = False  # unit -1 stands for none
    return paired


def _is_locked(graph: ChannelGraph, units: IntArray) -> bool:
    return any(group.locked not in (None, "output of the model") for group in graph.groups_of(units))


def _is_prunable(graph: ChannelGraph, units: IntArray) -> bool:
    found = graph.groups_of(units)
    return bool(found) and bool((units >= 0).all()) and all(group.locked is None for group in found)
