"""Operators that put tensors together or take them apart along a dimension."""

from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.graph.labels import IntArray
from secateur.graph.rules.gathering import indexed
from secateur.models.selection import ChannelSelection

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def cat(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Concatenate: the labels are concatenated along the dimension, tied along the others."""
    # The old special case: an empty tensor of shape (0,) takes no part whatever the rank.
    tensors = [tensor for tensor in args[0] if tensor.dim() == result.dim()]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.dim()
    sides = [flow.dims(tensor) for tensor in tensors]
    dims: list[IntArray | None] = []
    for position in range(result.dim()):
        parts = [side[position] for side in sides]
        if position != axis:
            dims.append(_tied(flow, parts, result.shape[position]))
        elif all(part is None for part in parts):
            dims.append(None)
        else:
            reason = "concatenated beside channels that cannot be cut"
            dims.append(
                np.concatenate(
                    [
                        flow.locked(tensor.shape[axis], reason) if part is None else part
                        for tensor, part in zip(tensors, parts, strict=True)
                    ]
                )
            )
    flow.give(result, tuple(dims))


def stack(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Stack along a new dimension, which carries nothing."""
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.dim()
    sides = [flow.dims(tensor) for tensor in args[0]]
    dims = [
        _tied(flow, [side[position] for side in sides], args[0][0].shape[position]) for position in range(len(sides[0]))
    ]
    dims.insert(axis, None)
    flow.give(result, tuple(dims))


def _tied(flow: "Flow", parts: list[IntArray | None], size: int) -> IntArray | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    for part in known[1:]:
        flow.unify(known[0], part, "combined")
    if len(known) < len(parts) and size > 1:
        flow.lock(known[0], "combined with a tensor that is not cut")
    return known[0]


def split(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Split or chunk: equal parts are tied index by index; whether code follows unequal ones is for a trial to ask."""
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].dim()
    dims = flow.dims(args[0])
    atoms = dims[axis]
    sizes = [part.shape[axis] for part in result]
    if atoms is not None and len(set(sizes)) == 1:
        parts = atoms.reshape(len(sizes), sizes[0])
        flow.books.unify(np.broadcast_to(parts[0], parts.shape).ravel(), parts.ravel())
    elif atoms is not None:
        flow.taken_apart(atoms, np.cumsum(sizes)[:-1].tolist())
    start = 0
    for part, size in zip(result, sizes, strict=True):
        piece = None if atoms is None else atoms[start : start + size]
        flow.give(part, (*dims[:axis], piece, *dims[axis + 1 :]))
        start += size


def slice_(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Take a range: whole is free, one of equal parts ties all parts; other ranges are for a trial to ask."""
    del kwargs
    tensor = args[0]
    axis = (args[1] if len(args) > 1 else 0) % tensor.dim()
    dims, size, kept = flow.dims(tensor), tensor.shape[axis], result.shape[axis]
    atoms = dims[axis]
    if atoms is None or size == kept:
        flow.give(result, dims)
        return
    start = _index(args[2] if len(args) > 2 else None, 0, size)
    step = args[4] if len(args) > 4 else 1
    if step == 1:
        flow.unread(np.concatenate([atoms[:start], atoms[start + kept :]]))
    if step == 1 and kept > 1 and size % kept == 0 and start % kept == 0:
        parts = atoms.reshape(-1, kept)
        flow.books.unify(np.broadcast_to(parts[0], parts.shape).ravel(), parts.ravel())
    elif step == 1:
        flow.taken_apart(atoms, [start, start + kept])
    else:
        flow.lock(atoms, "sliced at fixed channels")
    piece = np.ascontiguousarray(atoms[start::step][:kept])
    flow.give(result, (*dims[:axis], piece, *dims[axis + 1 :]))


def _index(value: int | None, default: int, size: int) -> int:
    if value is None:
        return default
    return max(0, min(size, value + size if value < 0 else value))


def select(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Take one index of a dimension; of channels, that one is fixed."""
    del kwargs
    axis = args[1] % args[0].dim()
    dims = flow.dims(args[0])
    flow.lock(dims[axis], "indexed at a fixed channel")
    flow.give(result, (*dims[:axis], *dims[axis + 1 :]))


def unbind(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Take a dimension apart into its indices."""
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % args[0].dim()
    dims = flow.dims(args[0])
    flow.lock(dims[axis], "unbound channel by channel")
    for part in result:
        flow.give(part, (*dims[:axis], *dims[axis + 1 :]))


def index_select(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Gather along a dimension that carries nothing; channels gathered by number cannot be cut, but by a selection."""
    del kwargs
    axis = args[1] % args[0].dim()
    dims = flow.dims(args[0])
    chosen = flow.dims(args[2])[0] if args[2].dim() == 1 else None
    if isinstance(flow.module, ChannelSelection) and axis == 1 and chosen is not None:
        source = dims[1]
        if source is None:
            source = flow.locked(args[0].shape[1], "selected from a tensor that is not cut")
        flow.books.selected(flow.module_path, source, chosen, args[2])
        flow.give(result, (dims[0], chosen, *dims[2:]))
        return
    flow.lock(dims[axis], "gathered at fixed channels")
    for index in flow.dims(args[2]):
        flow.lock(index, "used as an index")
    flow.give(result, (*dims[:axis], None, *dims[axis + 1 :]))


def index(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``x[i, j, …]`` with tensors: indexed dimensions are locked, the others keep their labels if in place."""
    del kwargs
    front, _, rest = indexed(flow, flow.dims(args[0]), args[1])
    new = result.dim() - len(rest)
    flow.give(result, (*rest[:front], *(None,) * new, *rest[front:]))


def embedding(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Look rows up: the row number is fixed, the columns are channels."""
    del kwargs
    rows, columns = flow.dims(args[0])
    flow.lock(rows, "looked up by number")
    for atoms in flow.dims(args[1]):
        flow.lock(atoms, "used as an index")
    flow.give(result, (*(None,) * (result.dim() - 1), columns))
