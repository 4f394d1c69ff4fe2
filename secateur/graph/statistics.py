"""Statistics across channels, taken over the channels that stay.

Zeroing a channel leaves it in every mean and norm across channels, and cutting it does not: that is why some groups are
cut only approximately. Here such an operator of the full model runs on the channels that stay, so that all else of the
cut can be compared exactly.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from secateur.graph.labels import DimensionLabels
from secateur.graph.rules.reductions import reduced_axes

MeansOver = Literal["all", "kept"]
"""Over which channels a masked run takes means and norms: ``all``, zeroed ones too, or those that are ``kept``."""

Dims = Callable[[Tensor], DimensionLabels]
Kept = dict[int, Tensor]
"""Dimension that loses channels → indices that stay."""


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Dims) -> Any:
    tensor, shape = args[0], args[1]
    first = tensor.dim() - len(shape)
    kept = _kept(tensor, dims, range(first, tensor.dim()))
    small = _narrowed(tensor, kept)
    inner = {axis - first: index for axis, index in kept.items()}
    vectors = [_narrowed(vector, inner) for vector in args[2:4]]
    result = func(small, list(small.shape[first:]), *vectors, *args[4:], **kwargs)
    return (_widened(result[0], tensor, kept), *result[1:])


def _group_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Dims) -> Any:
    tensor, groups = args[0], args[6]
    # Of several groups whole ones go and take their statistics along.
    kept = _kept(tensor, dims, (1,) if groups == 1 else ())
    small = _narrowed(tensor, kept)
    inner = {axis - 1: index for axis, index in kept.items()}
    vectors = [_narrowed(vector, inner) for vector in args[1:3]]
    result = func(small, *vectors, args[3], small.shape[1], *args[5:], **kwargs)
    return (_widened(result[0], tensor, kept), *result[1:])


def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Dims) -> Any:
    tensor, axis = args[0], args[1] % max(args[0].dim(), 1)
    kept = _kept(tensor, dims, (axis,) if tensor.dim() else ())
    return _widened(func(_narrowed(tensor, kept), *args[1:], **kwargs), tensor, kept)


def _reduction(position: int) -> Callable[..., Any]:
    def reduced(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dims: Dims) -> Any:
        if len(args) > 1 and isinstance(args[1], Tensor):  # the element-wise operator of the same name
            return func(*args, **kwargs)
        kept = _kept(args[0], dims, sorted(reduced_axes(args, kwargs, position)))
        return func(_narrowed(args[0], kept), *args[1:], **kwargs)

    return reduced


_ALONG = """
mean amax amin max min var std var_mean std_mean prod any all argmax argmin logsumexp median nanmedian mode aminmax
count_nonzero
"""

OVER_KEPT: Mapping[str, Callable[..., Any]] = {
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    **dict.fromkeys(_ALONG.split(), _reduction(1)),
    **dict.fromkeys(["linalg_vector_norm", "norm", "kthvalue"], _reduction(2)),
}
"""Operators that mix channels: function (operator, arguments, keyword arguments, marks of a tensor) → their result."""


def _kept(tensor: Tensor, dims: Dims, axes: Iterable[int]) -> Kept:
    marks_by_axis = dims(tensor)
    found = {}
    for axis in axes:
        marks = marks_by_axis[axis] if axis < len(marks_by_axis) else None
        if marks is not None and marks.any():
            found[axis] = torch.from_numpy(np.flatnonzero(marks == 0)).to(tensor.device)
    return found


def _narrowed(tensor: Any, kept: Kept) -> Any:
    if isinstance(tensor, Tensor):
        for axis, index in kept.items():
            tensor = tensor.index_select(axis, index)
    return tensor


def _widened(result: Tensor, like: Tensor, kept: Kept) -> Tensor:
    """Put zeros where channels were left out."""
    for axis, index in kept.items():
        size = list(result.shape)
        size[axis] = like.shape[axis]
        result = result.new_zeros(size).index_copy_(axis, index, result)
    return result
