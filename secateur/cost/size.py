"""Bytes of the file that a plan would be saved as."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secateur.graph import ChannelGraph, Drop
from secateur.graph.units import UnitArray

# Characters of the header's JSON beside names, sizes and indices, rounded up; the format is in export/FORMAT.md.
_FIXED = 1536  # preprocessing, builder, versions, keys
_PER_TENSOR = 84  # entry in the tensor table, shape
_PER_TENSOR_CUT = 16  # shape before the cut
_PER_DIM_CUT = 14  # key of the removed indices
_PER_MODULE_CUT = 96  # changed integer attributes
_PER_GROUP_CUT = 24  # kept units, size
_PER_DROP = 96  # keys of a dropped block


def size_bytes(graph: ChannelGraph, kept: UnitArray) -> int:
    """Return the bytes of the saved file when each group keeps ``kept`` units, shape (groups,).

    Parameters and persistent buffers, tied ones once, and the header (names, shapes, the plan). The header is counted
    generously: the file is never larger, unless long class names or notes are saved with it, and smaller by at most
    some kilobytes.
    """
    width = np.asarray([spec.element_bytes * spec.is_persistent for spec in graph.tensors], dtype=np.int64)
    return int((graph.costs.elements(kept) * width).sum()) + header_bytes(graph, kept)


def header_bytes(graph: ChannelGraph, kept: UnitArray) -> int:
    """Return an upper bound of the header's bytes: constant for the graph, and some digits per removed index."""
    terms = _header_terms(graph)
    touched = kept < graph.sizes
    if not touched.any():
        return terms.uncut
    removed = ((graph.sizes - kept) * terms.per_removed_unit).sum()
    stays = (kept * terms.per_kept_unit + terms.per_group)[touched].sum()
    return terms.uncut + terms.any_cut + int(removed + stays)


def dropped_header_bytes(graph: ChannelGraph, blocks: Iterable[str]) -> int:
    """Return an upper bound of the bytes that a file's header takes for blocks that were dropped from ``graph``.

    The plan in it lists the shapes of the dense model, and how each block is dropped.
    """
    names = tuple(blocks)
    if not names:
        return 0
    dense = sum(
        _PER_TENSOR_CUT + len(spec.name) + sum(len(str(size)) + 1 for size in spec.shape) for spec in graph.tensors
    )
    plan = graph.drop_blocks(names)
    drops = sum(_header_bytes_of(drop) for drop in plan.drops)
    return dense + drops + sum(len(name) + 4 for name in plan.gone)


def _header_bytes_of(drop: Drop) -> int:
    return _PER_DROP + len(drop.block) + len(drop.sum.module) + sum(len(path) + 16 for path, _ in drop.replaced)


@dataclass(frozen=True)
class _HeaderTerms:
    uncut: int
    any_cut: int
    per_removed_unit: NDArray[np.int64]
    per_kept_unit: NDArray[np.int64]
    per_group: NDArray[np.int64]


@lru_cache(maxsize=8)
def _header_terms(graph: ChannelGraph) -> _HeaderTerms:
    uncut, any_cut = _FIXED, 0
    for spec in graph.tensors:
        sizes = sum(len(str(size)) + 1 for size in spec.shape)
        uncut += _PER_TENSOR + (2 if spec.is_parameter else 3) * len(spec.name) + 2 * sizes
        uncut += sum(len(alias) + 5 for alias in spec.aliases)
        any_cut += _PER_TENSOR_CUT + len(spec.name) + sizes
    modules = {dim.parameter.rpartition(".")[0] for dim in graph.dims}
    any_cut += sum(_PER_MODULE_CUT + len(path) for path in modules)
    any_cut += _PER_GROUP_CUT if any(group.approximate for group in graph.groups) else 0  # key of their list
    any_cut += sum(_PER_DIM_CUT for _ in graph.dims) + sum(len(name) for name in {dim.parameter for dim in graph.dims})
    any_cut += sum(len(entry.module) + len(entry.buffer) + 48 for entry in graph.selections)
    group_of = np.repeat(np.arange(len(graph.groups)), graph.sizes)
    removed = np.zeros(len(graph.groups), dtype=np.int64)
    # Dimensions that lose the same indices share one list in the file.
    for dim in {dim.units.tobytes(): dim for dim in graph.dims}.values():
        owners = group_of[dim.units[dim.units >= 0]]
        removed += np.bincount(owners, minlength=removed.size) * (len(str(dim.units.size)) + 1)
    return _HeaderTerms(
        uncut=uncut,
        any_cut=any_cut,
        per_removed_unit=-(-removed // np.maximum(graph.sizes, 1)),
        per_kept_unit=np.asarray([len(str(group.size)) + 1 for group in graph.groups], dtype=np.int64),
        per_group=np.asarray(
            [(2 + bool(group.approximate)) * len(group.name) + _PER_GROUP_CUT for group in graph.groups],
            dtype=np.int64,
        ),
    )
