"""Operators that read or write at places given by a tensor: free along space, locked along channels."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.graph.labels import DimensionLabels, IntArray

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def gather(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``gather(input, dim, index)``: along all other dimensions element reads from its own place."""
    del kwargs
    dims = _beside(flow, args[0], args[1], [args[2]], result)
    flow.give(result, dims)


def scatter(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``scatter(input, dim, index, src or value)``, ``scatter_add``, ``scatter_reduce``: gather the other way."""
    source = args[3] if len(args) > 3 else kwargs.get("src", kwargs.get("value"))
    others = [args[2], source] if isinstance(source, Tensor) and source.dim() else [args[2]]
    dims = list(_beside(flow, args[0], args[1], others, result))
    flow.give(result, tuple(dims))


def _beside(flow: "Flow", tensor: Tensor, axis: int, others: list[Tensor], result: Tensor) -> DimensionLabels:
    """Lock what lies along ``axis`` and tie all other dimensions index by index."""
    axis %= max(tensor.dim(), 1)
    dims: list[IntArray | None] = []
    for position, merged in enumerate(flow.dims(tensor)):
        for other in others:
            here = flow.dims(other)[position]
            if position == axis:
                flow.lock(here, "ordered along channels")
            elif other.shape[position] != tensor.shape[position]:
                flow.lock(here, "gathered at fixed channels")
                flow.lock(merged, "gathered at fixed channels")
                merged = None
            elif here is not None or (merged is not None and other.stride(position) != 0):
                # Places that were expanded are the same for every channel.
                merged = flow.unify(merged, here, "gathered")
        if position == axis:
            flow.lock(merged, "gathered at fixed channels")
            merged = None
        dims.append(merged if result.shape[position] == tensor.shape[position] else None)
    return tuple(dims)


def index_put(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``index_put(input, indices, values)``: written at fixed places of some dimensions, whole along the others."""
    del kwargs
    dims = flow.dims(args[0])
    front, new, rest = indexed(flow, dims, args[1])
    layout = (*rest[:front], *(None,) * new, *rest[front:])
    values = args[2]
    for position, here in enumerate(flow.dims(values)):
        there = layout[position - values.dim() + len(layout)]
        if values.shape[position] == 1 or (here is None and values.stride(position) == 0):
            flow.lock(here, "broadcast against more channels")
        else:
            flow.unify(there, here, "written in place")
    flow.give(result, dims)


def indexed(flow: "Flow", dims: DimensionLabels, places: list[Tensor | None]) -> tuple[int, int, list[IntArray | None]]:
    """Lock the dimensions that ``places`` index; return where new ones come, how many, and the labels of the rest.

    A mask of booleans takes as many dimensions as it has itself.
    """
    used, axis, new = list[int](), 0, 0
    for place in places:
        if place is None:
            axis += 1
            continue
        for atoms in flow.dims(place):
            flow.lock(atoms, "used as an index")
        is_mask = place.dtype in (torch.bool, torch.uint8)
        width = place.dim() if is_mask else 1
        new = max(new, 1 if is_mask else place.dim())
        used.extend(range(axis, axis + width))
        axis += width
    for taken in used:
        flow.lock(dims[taken], "gathered at fixed channels")
    rest = [atoms for position, atoms in enumerate(dims) if position not in used]
    adjacent = used == list(range(used[0], used[0] + len(used))) if used else True
    return (used[0] if used and adjacent else 0), new, rest


def index_write(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``index_add``, ``index_copy``, ``index_fill`` (input, dim, index, source): whole slices at fixed places."""
    del kwargs
    tensor, source = args[0], args[3]
    axis = args[1] % max(tensor.dim(), 1)
    dims = list(flow.dims(tensor))
    flow.lock(dims[axis], "written at fixed channels")
    for atoms in flow.dims(args[2]):
        flow.lock(atoms, "used as an index")
    if isinstance(source, Tensor) and source.dim():
        for position, here in enumerate(flow.dims(source)):
            if position == axis:
                flow.lock(here, "written at fixed channels")
            else:
                dims[position] = flow.unify(dims[position], here, "written in place")
    flow.give(result, tuple(dims))


def bucketize(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``bucketize(input, boundaries)``: every element for itself, among boundaries that stay."""
    del kwargs
    for atoms in flow.dims(args[1]):
        flow.lock(atoms, "used as boundaries")
    flow.give(result, flow.dims(args[0]) if isinstance(args[0], Tensor) else ())
