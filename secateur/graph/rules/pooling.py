"""Pooling and resizing: channels keep their labels, space changes its size."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def _over_space(flow: "Flow", args: tuple[Any, ...], result: Any, space: int) -> None:
    dims = flow.dims(args[0])
    for atoms in dims[len(dims) - space :]:
        flow.lock(atoms, "used as a dimension of space")
    out = (*dims[: len(dims) - space], *(None,) * space)
    for part in result if isinstance(result, tuple | list) else (result,):
        flow.give(part, out)


def over_line(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Pool or resize the last dimension."""
    del kwargs
    _over_space(flow, args, result, 1)


def over_plane(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Pool or resize the last two dimensions."""
    del kwargs
    _over_space(flow, args, result, 2)


def over_volume(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Pool or resize the last three dimensions."""
    del kwargs
    _over_space(flow, args, result, 3)
