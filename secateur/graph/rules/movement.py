"""Operators that move data: views, permutations, repeats, pads. Channels keep their labels and change their place."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.graph.labels import DimensionLabels, IntArray

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def view(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Factor both shapes into blocks of equal size and reshape the labels of each block."""
    del kwargs
    flow.give(result, reshaped(flow, tuple(args[0].shape), flow.dims(args[0]), tuple(result.shape)))


def reshaped(flow: "Flow", before: tuple[int, ...], labels: DimensionLabels, after: tuple[int, ...]) -> DimensionLabels:
    """Return the labels of a tensor of shape ``before`` once it is seen with shape ``after``."""
    if before == after:
        return labels
    if all(dim is None for dim in labels) or math.prod(before) == 0:
        for dim in labels:
            flow.lock(dim, "reshaped while empty")
        return (None,) * len(after)
    dims: list[IntArray | None] = [None] * len(after)
    for old, new in _blocks(before, after):
        _reshape_block(flow, [(before[i], labels[i]) for i in old], [(j, after[j]) for j in new], dims)
    return tuple(dims)


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut both shapes into the shortest runs of dimensions with equal products."""
    blocks = []
    i = j = 0
    while i < len(before) and j < len(after):
        old, new = [i], [j]
        old_size, new_size = before[i], after[j]
        i, j = i + 1, j + 1
        while old_size != new_size:
            if old_size < new_size:
                old_size *= before[i]
                old.append(i)
                i += 1
            else:
                new_size *= after[j]
                new.append(j)
                j += 1
        blocks.append((old, new))
    if i < len(before) and blocks:  # dimensions of size 1 at the end
        blocks[-1][0].extend(range(i, len(before)))
    return blocks


def _reshape_block(
    flow: "Flow",
    old: list[tuple[int, IntArray | None]],
    new: list[tuple[int, int]],
    dims: list[IntArray | None],
) -> None:
    labelled = [k for k, (_, atoms) in enumerate(old) if atoms is not None]
    if not labelled:
        return
    real = [k for k in labelled if old[k][0] > 1]
    if len(real) > 1:
        real = [k for k in real if (labels := old[k][1]) is not None and flow.books.carries(labels)] or real[:1]
    if len(real) > 1:
        for k in labelled:
            flow.lock(old[k][1], "two channel dimensions are merged into one")
        return
    for k in labelled:
        if k not in real[:1] and (real or k != labelled[0]):
            flow.lock(old[k][1], "merged with another channel dimension")
    place = real[0] if real else labelled[0]
    atoms = old[place][1]
    assert atoms is not None
    inner = math.prod(size for size, _ in old[place + 1 :])
    outer = math.prod(size for size, _ in old[:place])
    flat = atoms if inner == 1 else np.repeat(atoms, inner)
    flat = flat if outer == 1 else np.tile(flat, outer)
    targets = [(j, size) for j, size in new if size > 1] or new[:1]
    if not flow.books.carries(flat):  # unmarked in a masked run: the values no longer tell which axis they lie along
        for number, size in targets:
            dims[number] = flow.books.locked(size, "reshaped")
        return
    position, kept = _carrier(flow, flat.reshape([size for _, size in targets]))
    dims[targets[position][0]] = kept


def _carrier(flow: "Flow", block: IntArray) -> tuple[int, IntArray]:
    """Choose the axis of a split dimension that carries its channels, and return it with its labels.

    Along axes on which the labels do not change nothing needs to be done. If more than one axis is left (C channels
    seen as g × C/g), the cut must stay rectangular: one axis carries, the others are tied together.
    """
    first = [block.take([0], axis=axis) for axis in range(block.ndim)]
    varying = [axis for axis in range(block.ndim) if not (block == first[axis]).all()]
    if not varying:
        return 0, np.ascontiguousarray(block.reshape(block.shape[0], -1)[:, 0])
    axis = varying[0] if len(varying) == 1 else flow.carrying_axis(block, varying)
    line = np.moveaxis(block, axis, 0).reshape(block.shape[axis], -1)
    if len(varying) > 1:
        flow.books.unify(np.repeat(line[:, 0], line.shape[1]), line.ravel())
    return axis, np.ascontiguousarray(line[:, 0])


def permute(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Carry labels along: ``permute(input, dims)``."""
    del kwargs
    dims = flow.dims(args[0])
    flow.give(result, tuple(dims[axis] for axis in args[1]))


def transpose(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Swap two dimensions: ``transpose(input, a, b)``, and ``t(input)``."""
    del kwargs
    dims = list(flow.dims(args[0]))
    if len(dims) > 1:
        first, second = (args[1], args[2]) if len(args) > 2 else (0, 1)
        dims[first], dims[second] = dims[second], dims[first]
    flow.give(result, tuple(dims))


def squeeze(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Drop dimensions of size 1; one that carries a channel is locked."""
    del kwargs
    tensor, rank = args[0], args[0].dim()
    if len(args) == 1:
        chosen = set(range(rank))
    else:
        given = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        chosen = {axis % rank for axis in given} if rank else set()
    dims = flow.dims(tensor)
    kept = []
    for axis in range(rank):
        if axis in chosen and tensor.shape[axis] == 1:
            flow.lock(dims[axis], "squeezed away")
        else:
            kept.append(dims[axis])
    flow.give(result, tuple(kept))


def unsqueeze(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Insert a dimension that carries nothing."""
    del kwargs
    dims = list(flow.dims(args[0]))
    dims.insert(args[1] % result.dim(), None)
    flow.give(result, tuple(dims))


def expand(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Broadcast to a larger shape."""
    del kwargs
    tensor, dims = args[0], flow.dims(args[0])
    extra = result.dim() - tensor.dim()
    out: list[IntArray | None] = [None] * result.dim()
    for axis, atoms in enumerate(dims):
        if tensor.shape[axis] != result.shape[axis + extra]:
            flow.lock(atoms, "broadcast against more channels")
        else:
            out[axis + extra] = atoms
    flow.give(result, tuple(out))


def repeat(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Tile: each dimension's labels are repeated whole."""
    del kwargs
    dims, times = flow.dims(args[0]), args[1]
    extra = len(times) - args[0].dim()
    out: list[IntArray | None] = [None] * extra
    for atoms, count in zip(dims, times[extra:], strict=True):
        out.append(atoms if atoms is None or count == 1 else np.tile(atoms, count))
    flow.give(result, tuple(out))


def constant_pad(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Pad with a constant: padded channels belong to no parameter and stay."""
    del kwargs
    dims, rank = list(flow.dims(args[0])), args[0].dim()
    pads = list(args[1])
    for pair in range(len(pads) // 2):
        front, back = pads[2 * pair], pads[2 * pair + 1]
        axis = rank - 1 - pair
        atoms = dims[axis]
        if atoms is None or (front == 0 and back == 0):
            continue
        if front < 0 or back < 0:
            flow.lock(atoms, "cropped at a fixed channel")
            dims[axis] = None
            continue
        reason = "padded with constant channels"
        parts = [flow.locked(front, reason)] if front else []
        parts.append(atoms)
        if back:
            parts.append(flow.locked(back, reason))
        dims[axis] = np.concatenate(parts)
    flow.give(result, tuple(dims))


def window_pad(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Reflect, replicate or wrap at the border: only space can be padded so."""
    del kwargs
    dims, rank = list(flow.dims(args[0])), args[0].dim()
    for axis in range(rank - len(args[1]) // 2, rank):
        flow.lock(dims[axis], "padded by its own channels")
        dims[axis] = None
    flow.give(result, tuple(dims))


def flip(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Reverse some dimensions."""
    del kwargs
    dims = list(flow.dims(args[0]))
    for axis in args[1]:
        atoms = dims[axis]
        dims[axis] = None if atoms is None else np.ascontiguousarray(atoms[::-1])
    flow.give(result, tuple(dims))


def pixel_shuffle(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """(…, C·r², H, W) → (…, C, H·r, W·r): the r² channels behind one output channel go together."""
    del kwargs
    _space_carries_nothing(flow, args[0])
    dims = list(flow.dims(args[0]))
    atoms = dims[-3]
    if atoms is not None:
        blocks = atoms.reshape(-1, args[1] ** 2)
        flow.books.unify(np.repeat(blocks[:, 0], blocks.shape[1]), blocks.ravel())
        dims[-3] = np.ascontiguousarray(blocks[:, 0])
    flow.give(result, (*dims[:-2], None, None))


def pixel_unshuffle(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """(…, C, H·r, W·r) → (…, C·r², H, W): each channel becomes r² neighbours."""
    del kwargs
    _space_carries_nothing(flow, args[0])
    dims = list(flow.dims(args[0]))
    atoms = dims[-3]
    if atoms is not None:
        dims[-3] = np.repeat(atoms, args[1] ** 2)
    flow.give(result, (*dims[:-2], None, None))


def _space_carries_nothing(flow: "Flow", tensor: Any) -> None:
    for atoms in flow.dims(tensor)[-2:]:
        flow.lock(atoms, "used as a dimension of space")
