"""Normalisation layers. Per channel is exact to cut; across channels is only approximate."""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from secateur.graph.labels import IntArray

if TYPE_CHECKING:
    from secateur.graph.flow import Flow

STANDARDISED = "the weight is normalised over its inputs (fold it first: fold_weight_standardisation)"


def batch_norm(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``native_batch_norm(input, weight, bias, running_mean, running_var, …)``: one entry per channel, dimension 1."""
    dims = list(flow.dims(args[0]))
    for vector in (*args[1:5], *kwargs.values()):
        if isinstance(vector, Tensor) and vector.dim() == 1:
            dims[1] = flow.unify(dims[1], flow.dims(vector)[0], "normalised")
    for axis, atoms in enumerate(dims):
        if axis == 1:
            continue
        if flow.from_weights:
            flow.lock(atoms, STANDARDISED)
        else:  # batch statistics are taken over all other dimensions
            flow.approximate(atoms, "normalised across channels")
    flow.give(result[0] if isinstance(result, tuple | list) else result, tuple(dims))


def layer_norm(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``native_layer_norm(input, normalized_shape, weight, bias, eps)``: statistics across the last dimensions."""
    del kwargs
    dims = list(flow.dims(args[0]))
    count = len(args[1])
    first = len(dims) - count
    for vector in (tensor for tensor in args[2:4] if isinstance(tensor, Tensor)):
        for offset, atoms in enumerate(flow.dims(vector)):
            dims[first + offset] = flow.unify(dims[first + offset], atoms, "normalised")
    for atoms in dims[first:]:
        flow.approximate(atoms, "normalised across channels")
    flow.give(result[0] if isinstance(result, tuple | list) else result, tuple(dims))


def group_norm(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``native_group_norm(input, weight, bias, N, C, HxW, group, eps)``: statistics across each group of channels.

    A group that goes whole takes its statistics along, so the cut is exact; a single group has to lose channels.
    """
    del kwargs
    dims = list(flow.dims(args[0]))
    for vector in (tensor for tensor in args[1:3] if isinstance(tensor, Tensor)):
        dims[1] = flow.unify(dims[1], flow.dims(vector)[0], "normalised")
    groups = args[6]
    for atoms in dims[1 if groups == 1 else 2 :]:
        flow.approximate(atoms, f"normalised across channels in {groups} groups")
    if groups > 1 and dims[1] is not None:
        _whole_groups(flow, dims[1], groups)
    flow.give(result[0], tuple(dims))


def _whole_groups(flow: "Flow", atoms: IntArray, groups: int) -> None:
    blocks = atoms.reshape(groups, -1)
    flow.books.unify(np.repeat(blocks[:, 0], blocks.shape[1]), blocks.ravel())
    module = flow.module
    owned = isinstance(module, nn.GroupNorm) and flow.counts("num_groups", groups, np.ascontiguousarray(blocks[:, 0]))
    if not owned:
        flow.lock(atoms, f"normalised in {groups} groups, a number that no GroupNorm module holds")
    elif module is not None and module._parameters.get("weight") is None:
        flow.counts("num_channels", atoms.size, atoms)


def weight_norm(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``_weight_norm_interface(v, g, dim)``: each index of ``dim`` has its own length, taken across all others."""
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].dim()
    dims = list(flow.dims(args[0]))
    lengths = flow.dims(args[1])
    for position, atoms in enumerate(lengths):
        if position != axis:
            flow.lock(atoms, "broadcast against more channels")
            flow.lock(dims[position], STANDARDISED)
    dims[axis] = flow.unify(dims[axis], lengths[axis], "normalised")
    flow.give(result[0], tuple(dims))
    flow.give(result[1], tuple(atoms if position == axis else None for position, atoms in enumerate(dims)))


def softmax(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``_softmax(input, dim, half_to_float)``: along channels it is only approximate to cut."""
    del kwargs
    dims = flow.dims(args[0])
    flow.approximate(dims[args[1]], "normalised across channels by a softmax")
    flow.give(result, dims)


def glu(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``glu(input, dim)``: the first half gated by the second, index by index."""
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % args[0].dim()
    dims = flow.dims(args[0])
    atoms = dims[axis]
    half = None
    if atoms is not None:
        half, gate = atoms[: atoms.size // 2], atoms[atoms.size // 2 :]
        flow.books.unify(half, gate)
    flow.give(result, (*dims[:axis], half, *dims[axis + 1 :]))
