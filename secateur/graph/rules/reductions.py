"""Sums, means, maxima and norms along dimensions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def reduced_axes(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> set[int]:
    """Return the axes that a reduction runs over; no ``dim`` means all. ``position`` is where ``dim`` stands."""
    rank = args[0].dim()
    given = args[position] if len(args) > position else kwargs.get("dim")
    if given is None or given == [] or isinstance(given, bool):
        return set(range(rank))
    axes = given if isinstance(given, list | tuple) else [given]
    return {axis % max(rank, 1) for axis in axes}


def _reduction(position: int, exact: bool) -> Callable[["Flow", tuple[Any, ...], dict[str, Any], Any], None]:
    def rule(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        axes = reduced_axes(args, kwargs, position)
        dims = flow.dims(args[0])
        for axis in axes:
            if axis < len(dims) and not exact:
                flow.approximate(dims[axis], "reduced across channels")
        kept = tuple(None if axis in axes else atoms for axis, atoms in enumerate(dims))
        left = tuple(atoms for axis, atoms in enumerate(dims) if axis not in axes)
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                flow.give(part, kept if part.dim() == len(dims) else left)

    return rule


total = _reduction(1, exact=True)
"""``sum(input, dims, keepdim)``: zeroed channels add nothing, so a sum is exact to cut."""

statistic = _reduction(1, exact=False)
"""``mean``, ``amax``, ``var`` … (input, dims): what a missing channel changes, a zero one does not."""

norm = _reduction(2, exact=False)
"""``linalg_vector_norm(input, ord, dims, keepdim)``."""


kth_value = _reduction(2, exact=False)
"""``kthvalue(input, k, dim, keepdim)``."""


def along(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``sort(input, dim)``, ``cumsum(input, dim)`` …: free along space, locked along channels."""
    given = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    _ordered(flow, args[0], -1 if isinstance(given, bool) else given, result)


def topk(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``topk(input, k, dim)``: free along space, locked along channels."""
    del kwargs
    _ordered(flow, args[0], args[2] if len(args) > 2 else -1, result)


def _ordered(flow: "Flow", tensor: Tensor, axis: int, result: Any) -> None:
    dims = list(flow.dims(tensor))
    if dims:
        flow.lock(dims[axis], "ordered along channels")
        dims[axis] = None
    for part in result if isinstance(result, tuple | list) else (result,):
        flow.give(part, tuple(dims))
