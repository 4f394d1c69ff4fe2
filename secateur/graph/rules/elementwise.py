"""Element-wise operators: every channel for itself, with broadcasting."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.graph.labels import labels_of

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def elementwise(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Tie the operands' channels index by index, after aligning their dimensions on the right."""
    out = result if isinstance(result, Tensor) else result[0]
    operands = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
    rank = out.dim()
    if any(operand.dim() > rank for operand in operands):
        raise ValueError("an element-wise operator that drops dimensions")
    sides = [(operand.shape, flow.dims(operand), operand.stride()) for operand in operands]
    dims = []
    for position in range(rank):
        size = out.shape[position]
        merged, bare = None, False
        for shape, labels, strides in sides:
            index = position - rank + len(shape)
            if index < 0:
                continue
            here, expanded = labels[index], strides[index] == 0
            if shape[index] != size:
                flow.lock(here, "broadcast against more channels")
            elif here is None:
                # What was expanded is the same for every channel, so it follows any number of them.
                bare = bare or (size > 1 and not expanded)
            elif merged is None:
                merged = here
            else:
                flow.unify(merged, here, "combined")
        if merged is not None and bare:
            flow.lock(merged, "combined with a tensor that is not cut")
        dims.append(merged)
    flow.give(out, tuple(dims))


def addition(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Tie the operands as all element-wise operators do, and note where two activations are summed."""
    elementwise(flow, args, kwargs, result)
    rank = result.dim()
    activations = [
        value
        for value in args
        if isinstance(value, Tensor) and (known := labels_of(value)) is not None and not known.from_weights
    ]
    for position in range(rank):
        places = [(value, position - rank + value.dim()) for value in activations]
        found = [labels for value, index in places if index >= 0 and (labels := flow.dims(value)[index]) is not None]
        if len(found) > 1 and any(other is not found[0] for other in found[1:]):
            flow.summed(found[0])


def like_first(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Give the results the labels of the first argument: same shape, same channels."""
    del kwargs
    first = result if isinstance(result, Tensor) else result[0]
    flow.give(first, flow.dims(args[0]))


def fresh(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``new_zeros(input, size)`` and its like take nothing from their input but its dtype and device."""
    del args, kwargs
    flow.give(result, (None,) * result.dim())


def copy_in_place(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Tie what is written to where it is written: ``copy_(target, source)``."""
    del kwargs
    target, source = args[0], args[1]
    there, here = flow.dims(target), flow.dims(source)
    rank = target.dim()
    for position in range(rank):
        index = position - rank + source.dim()
        if index < 0:
            flow.lock(there[position], "overwritten by a tensor that is not cut")
        elif source.shape[index] != target.shape[position]:
            flow.lock(here[index], "broadcast against more channels")
            flow.lock(there[position], "overwritten by a tensor that is not cut")
        else:
            flow.unify(there[position], here[index], "written in place")
    flow.give(result, there)


def prelu(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Tie the slopes of a parametric ReLU to the channels, dimension 1."""
    del kwargs
    dims = flow.dims(args[0])
    slope = flow.dims(args[1])
    if args[1].dim() == 1:
        if args[1].shape[0] == 1:
            flow.lock(slope[0], "one slope for all channels")
        elif args[0].dim() > 1:
            flow.unify(dims[1], slope[0], "combined")
        flow.give(result, dims)
    else:
        elementwise(flow, args, {}, result)
