"""Sums, means, maxima and norms along dimensions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def _axes(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> tuple[set[int], bool]:
    """Return the reduced axes and whether they stay with size 1."""
    rank = args[0].dim()
    given = args[position] if len(args) > position else kwargs.get("dim")
    keep = args[position + 1] if len(args) > position + 1 else kwargs.get("keepdim", False)
    if given is None or given == []:
        return set(range(rank)), bool(keep)
    axes = given if isinstance(given, list | tuple) else [given]
    return {axis % max(rank, 1) for axis in axes}, bool(keep)


def _reduction(position: int, exact: bool) -> Callable[["Flow", tuple[Any, ...], dict[str, Any], Any], None]:
    def rule(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        axes, keep = _axes(args, kwargs, position)
        dims = flow.dims(args[0])
        for axis in axes:
            if axis < len(dims) and not exact:
                flow.approximate(dims[axis], "reduced across channels")
        parts = result if isinstance(result, tuple | list) else (result,)
        for part in parts:
            if isinstance(part, Tensor):
                keep_here = keep or part.dim() == len(dims)
                flow.give(
                    part,
                    tuple(
                        None if axis in axes else atoms
                        for axis, atoms in enumerate(dims)
                        if keep_here or axis not in axes
                    ),
                )

    return rule


total = _reduction(1, exact=True)
"""``sum(input, dims, keepdim)``: zeroed channels add nothing, so a sum is exact to cut."""

statistic = _reduction(1, exact=False)
"""``mean``, ``amax``, ``var`` … (input, dims): what a missing channel changes, a zero one does not."""

norm = _reduction(2, exact=False)
"""``linalg_vector_norm(input, ord, dims, keepdim)``."""


def along(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Sort, top-k, cumulative sums …: free along space, locked along channels."""
    axis = next((value for value in (*args[1:], kwargs.get("dim")) if isinstance(value, int)), -1)
    if len(args) > 2 and isinstance(args[2], int) and not isinstance(args[2], bool):
        axis = args[2]  # topk(input, k, dim)
    dims = list(flow.dims(args[0]))
    if dims:
        flow.lock(dims[axis], "ordered along channels")
        dims[axis] = None
    for part in result if isinstance(result, tuple | list) else (result,):
        flow.give(part, tuple(dims))
