"""Operators that trade channels for windows of space: unfold, fold, channel shuffle; and transforms of space."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def im2col(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``im2col(input (…, C, H, W), kernel_size, …)`` → (…, C·kh·kw, L): each channel becomes kh·kw neighbours."""
    del kwargs
    dims = flow.dims(args[0])
    for atoms in dims[-2:]:
        flow.lock(atoms, "used as a dimension of space")
    atoms = dims[-3]
    flow.give(result, (*dims[:-3], None if atoms is None else np.repeat(atoms, math.prod(args[1])), None))


def col2im(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``col2im(input (…, C·kh·kw, L), output_size, kernel_size, …)`` → (…, C, H, W): kh·kw neighbours are summed."""
    del kwargs
    dims = flow.dims(args[0])
    flow.lock(dims[-1], "used as a dimension of space")
    atoms = dims[-2]
    if atoms is not None:
        blocks = atoms.reshape(-1, math.prod(args[2]))
        flow.books.unify(np.repeat(blocks[:, 0], blocks.shape[1]), blocks.ravel())
        atoms = np.ascontiguousarray(blocks[:, 0])
    flow.give(result, (*dims[:-2], atoms, None, None))


def channel_shuffle(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``channel_shuffle(input, groups)``: seen as groups × C/groups, turned. The number of groups stays.

    So every group loses the same positions, and those are tied.
    """
    del kwargs
    dims = list(flow.dims(args[0]))
    if dims[1] is not None:
        blocks = dims[1].reshape(args[1], -1)
        flow.books.unify(np.broadcast_to(blocks[0], blocks.shape).ravel(), blocks.ravel())
        dims[1] = np.ascontiguousarray(blocks.T).ravel()
    flow.give(result, tuple(dims))


def fourier(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``_fft_r2c(input, dims, …)`` and its like: free along space, locked along channels."""
    del kwargs
    dims = list(flow.dims(args[0]))
    for axis in args[1]:
        flow.lock(dims[axis], "transformed along channels")
        dims[axis] = None
    flow.give(result, tuple(dims))


def as_real(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``view_as_real``: real and imaginary part in a new last dimension."""
    del kwargs
    flow.give(result, (*flow.dims(args[0]), None))


def as_complex(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``view_as_complex``: the last dimension holds real and imaginary part."""
    del kwargs
    dims = flow.dims(args[0])
    flow.lock(dims[-1], "used as real and imaginary part")
    flow.give(result, dims[:-1])


def grid_sample(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``grid_sampler_2d(input (N, C, H, W), grid (N, h, w, 2), …)``: space is sampled where the grid says."""
    del kwargs
    dims = list(flow.dims(args[0]))
    for atoms in dims[2:]:
        flow.lock(atoms, "used as a dimension of space")
    for atoms in flow.dims(args[1]):
        flow.lock(atoms, "used as a grid")
    flow.give(result, (*dims[:2], *(None,) * (len(dims) - 2)))


def unpool(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``max_unpool2d(input, indices, output_size, …)``: values go back to where they were the largest."""
    del kwargs
    space = len(args[2])
    dims = flow.dims(args[0])
    places = flow.dims(args[1])
    for atoms in (*dims[len(dims) - space :], *places[len(dims) - space :]):
        flow.lock(atoms, "used as a dimension of space")
    kept = [flow.unify(atoms, place, "unpooled") for atoms, place in zip(dims[:-space], places[:-space], strict=True)]
    flow.give(result, (*kept, *(None,) * space))


def roi_align(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``roi_align(input (N, C, H, W), rois (K, 5), …)`` → (K, C, h, w), and ``roi_pool``: regions of space."""
    del kwargs
    dims = flow.dims(args[0])
    for axis in (0, 2, 3):
        flow.lock(dims[axis], "used as a dimension of space")
    for atoms in flow.dims(args[1]):
        flow.lock(atoms, "used as a region")
    for part in result if isinstance(result, tuple | list) else (result,):
        flow.give(part, (None, dims[1], None, None))
