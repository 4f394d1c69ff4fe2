"""Operators that only move data, followed by running them on numbers that say where each element was.

Such an operator may be given places: how far to roll, which rows to take. Along dimensions that carry nothing this
does not matter. Along channels it does, because the cut model would use the same places among fewer channels; so
labels are followed only where each channel keeps its place along one dimension of the result, and all channels are
treated alike.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.graph.labels import IntArray

if TYPE_CHECKING:
    from secateur.graph.flow import Flow

MOVES = frozenset(
    {
        "as_strided",
        "as_strided_copy",
        "diag_embed",
        "diagonal",
        "diagonal_copy",
        "roll",
        "rot90",
        "tril",
        "triu",
        "unfold",
        "unfold_copy",
    }
)
"""ATen operators that move, drop or blank elements and compute nothing."""

FloatArray = NDArray[np.float64]

_MOST_ELEMENTS = 1 << 24


def moved(func: Any, flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Run ``func`` on numbered elements, and give the result the labels of what keeps its place.

    Raises:
        ValueError: the operator reads more than one tensor, or a tensor too large to be followed.
    """
    data = args[0]
    alone = not any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values()))
    reshaped = result is data and "as_strided" in func._schema.name  # its old layout is no longer known
    size = max(data.numel(), result.numel())
    if not alone or reshaped or size > _MOST_ELEMENTS or data.storage_offset():
        raise ValueError("not a movement that can be followed")
    dims: list[IntArray | None] = [None] * result.dim()
    for axis, atoms in enumerate(flow.dims(data)):
        if atoms is None:
            continue
        target = _kept_place(_executed(func, data, axis, args, kwargs), atoms.size)
        if target is None:
            flow.lock(atoms, "moved along channels by fixed places")
        elif dims[target] is not None:
            flow.lock(atoms, "merged with another channel dimension")
            flow.lock(dims[target], "merged with another channel dimension")
        else:
            dims[target] = atoms
    flow.give(result, tuple(dims))


def restrides_in_place(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the call only gives new strides to dimensions of size 1, as pooling to 1 × 1 in channels_last does."""
    if func is not torch.ops.aten.as_strided_.default or len(args) > 3 or tuple(args[1]) != tuple(args[0].shape):
        return False
    old = args[0].stride()
    return all(size == 1 or old[axis] == args[2][axis] for axis, size in enumerate(args[0].shape))


def _executed(func: Any, data: Tensor, axis: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FloatArray:
    """Return what ``func`` makes of numbers that count all elements from 1, ``axis`` fastest; blanks become 0."""
    others = data.numel() // data.shape[axis]
    numbers = torch.arange(1, data.numel() + 1, dtype=torch.float64).view(others, data.shape[axis])
    rest = [size for position, size in enumerate(data.shape) if position != axis]
    source = torch.empty_strided(data.shape, data.stride(), dtype=torch.float64, device="cpu")
    source.copy_(numbers.view(*rest, data.shape[axis]).movedim(-1, axis))
    found: FloatArray = func(source, *args[1:], **kwargs).numpy()
    return found


def _kept_place(numbers: FloatArray, size: int) -> int | None:
    """Return the axis along which every channel is itself, with everything else alike for all, or None."""
    blank = numbers == 0
    other, place = np.divmod(numbers - 1, size)
    other[blank] = -1
    for axis, length in enumerate(numbers.shape):
        if length != size:
            continue
        expected = np.arange(size).reshape([-1 if position == axis else 1 for position in range(numbers.ndim)])
        alike = (other == other.take([0], axis=axis)).all()
        if alike and ((place == expected) | blank).all() and not blank.all():
            return axis
    return None
