"""Convolutions: plain, grouped, depthwise and transposed, in one to three dimensions of space."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from secateur.graph.labels import IntArray

if TYPE_CHECKING:
    from secateur.graph.flow import Flow

NOT_A_CHANNEL = "not a channel"
"""Reason under which positions of a kernel are locked; such dimensions are never listed."""


def convolution(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)``.

    A weight is (out, in/groups, *kernel), or (in, out/groups, *kernel) if transposed.
    """
    del kwargs
    data, weight, bias = args[0], args[1], args[2]
    transposed, groups = args[6], args[8]
    kernel = weight.dim() - 2
    channel = data.dim() - kernel - 1
    given, (first, second, *positions) = flow.dims(data), flow.dims(weight)
    for atoms in given[channel + 1 :]:
        flow.lock(atoms, "used as a dimension of space")
    for atoms in positions:
        if atoms is not None:
            flow.books.lock(atoms, NOT_A_CHANNEL)
    incoming = given[channel]
    if transposed:
        out = _transposed(flow, weight, incoming, first, second, groups)
    else:
        out = _forward(flow, weight, incoming, first, second, groups)
    if bias is not None:
        flow.unify(out, flow.dims(bias)[0], "added as a bias")
    batch = given[:channel]
    flow.give(result, (*batch, out, *(None,) * kernel))
    # One kernel application per position of the output, or of the input if transposed.
    positions_count = math.prod((data if transposed else result).shape[channel + 1 :])
    kernel_size = math.prod(weight.shape[2:])
    samples = list(zip(data.shape[:channel], batch, strict=True))
    rows = out if first is None else first  # one kernel for all channels runs once for each
    factors = [(positions_count * kernel_size, None), *samples, (weight.shape[0], rows), (weight.shape[1], second)]
    flow.spend("convolution", factors)


def _forward(
    flow: "Flow",
    weight: Tensor,
    incoming: IntArray | None,
    first: IntArray | None,
    second: IntArray | None,
    groups: int,
) -> IntArray | None:
    per_group_out, per_group_in = weight.shape[0] // groups, weight.shape[1]
    if groups == 1:
        flow.contract(incoming, second, "convolved")
        flow.role(weight, 0, "produces")
        flow.role(weight, 1, "consumes")
        return first
    if first is None and groups == weight.shape[0] == per_group_in * groups and weight.stride(0) == 0:
        return incoming  # one kernel, expanded over all channels
    if incoming is None or first is None:
        flow.lock(incoming, "read by a grouped convolution whose weight is not a parameter")
        flow.lock(first, "grouped convolution of a tensor that is not cut")
        flow.lock(second, "grouped convolution of a tensor that is not cut")
        return first
    flow.role(weight, 1, "consumes")
    if per_group_in == 1 or groups > per_group_in + per_group_out:
        # Whole groups go: the group's inputs, its outputs, and one of `groups`.
        _lock_inner(flow, second, per_group_in)
        _tie_whole_groups(flow, weight, incoming, first, groups)
        return first
    # Every group gets equally narrower.
    flow.role(weight, 0, "produces")
    if second is None:
        flow.lock(incoming, "read by a grouped convolution whose weight is not a parameter")
    else:
        flow.unify(incoming, np.tile(second, groups), "convolved")
    _tie_across_groups(flow, first, groups)
    return first


def _transposed(
    flow: "Flow",
    weight: Tensor,
    incoming: IntArray | None,
    first: IntArray | None,
    second: IntArray | None,
    groups: int,
) -> IntArray | None:
    per_group_in, per_group_out = weight.shape[0] // groups, weight.shape[1]
    flow.role(weight, 0, "consumes")
    flow.contract(incoming, first, "convolved")
    if groups == 1:
        flow.role(weight, 1, "produces")
        return second
    if first is None or second is None:
        flow.lock(first, "grouped convolution of a tensor that is not cut")
        flow.lock(second, "grouped convolution of a tensor that is not cut")
        return None
    if per_group_out == 1 or groups > per_group_in + per_group_out:
        _lock_inner(flow, second, per_group_out)
        flow.regroup(weight, groups)
        blocks = first.reshape(groups, per_group_in)
        flow.books.unify(np.repeat(blocks[:, 0], per_group_in), blocks.ravel())
        return np.repeat(blocks[:, 0], per_group_out)
    flow.role(weight, 1, "produces")
    _tie_across_groups(flow, first, groups)
    return np.tile(second, groups)


def _tie_whole_groups(flow: "Flow", weight: Tensor, incoming: IntArray, out: IntArray, groups: int) -> None:
    flow.regroup(weight, groups)
    leaders = out.reshape(groups, -1)[:, 0]
    for atoms in (incoming, out):
        if atoms.size > groups:
            flow.books.unify(np.repeat(leaders, atoms.size // groups), atoms)
        else:
            flow.books.unify(leaders, atoms)


def _tie_across_groups(flow: "Flow", atoms: IntArray, groups: int) -> None:
    blocks = atoms.reshape(groups, -1)
    flow.books.unify(np.broadcast_to(blocks[0], blocks.shape).ravel(), blocks.ravel())


def _lock_inner(flow: "Flow", atoms: IntArray | None, size: int) -> None:
    if atoms is not None and size > 1:
        flow.lock(atoms, "inside a group that is cut whole")
    elif atoms is not None:
        flow.books.lock(atoms, NOT_A_CHANNEL)
