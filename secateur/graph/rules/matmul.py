"""Matrix products: linear layers and products of activations."""

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.graph.labels import labels_of

if TYPE_CHECKING:
    from secateur.graph.flow import Flow


def matrix_product(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``mm(a, b)``, ``bmm(a, b)``, ``mv(a, b)``: the last dimension of a is contracted with the last but one of b."""
    del kwargs
    _product(flow, args[0], args[1], result)


def added_matrix_product(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``addmm(c, a, b)``, ``baddbmm(c, a, b)``, ``addmv(c, a, b)``: a product with c added, broadcast."""
    del kwargs
    added = args[0]
    _product(flow, args[1], args[2], result)
    out = list(flow.dims(result))
    for position, atoms in enumerate(flow.dims(added)):
        place = position - added.dim() + result.dim()
        if added.shape[position] != result.shape[place]:
            flow.lock(atoms, "broadcast against more channels")
        else:
            out[place] = flow.unify(out[place], atoms, "added")
    flow.give(result, tuple(out))


def dot(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``dot(a, b)``: a number; both vectors are contracted."""
    del kwargs
    flow.unify(flow.dims(args[0])[0], flow.dims(args[1])[0], "multiplied")
    flow.give(result, ())
    flow.spend("dot", [(args[0].shape[0], flow.dims(args[0])[0])])


def distance(flow: "Flow", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """``_cdist_forward(a (…, P, M), b (…, R, M), p, …)`` → (…, P, R): channels absent from both add nothing."""
    del kwargs
    left, right = flow.dims(args[0]), flow.dims(args[1])
    contracted = flow.unify(left[-1], right[-1], "compared")
    lead = [flow.unify(first, second, "compared") for first, second in zip(left[:-2], right[:-2], strict=True)]
    flow.give(result, (*lead, left[-2], right[-2]))
    shape = (*args[0].shape[:-1], args[1].shape[-2])
    labels = (*lead, left[-2], right[-2])
    flow.spend("distance", [*zip(shape, labels, strict=True), (args[0].shape[-1], contracted)])


def _product(flow: "Flow", left: Tensor, right: Tensor, result: Tensor) -> None:
    left_dims, right_dims = flow.dims(left), flow.dims(right)
    vector = right.dim() == 1
    contracted = right_dims[0] if vector else right_dims[-2]
    columns = right_dims[-1:] if not vector else ()
    rows = left_dims[-2]
    flow.contract(left_dims[-1], contracted, "multiplied")
    if not any(known is not None and known.from_weights for known in (labels_of(left), labels_of(right))):
        flow.paired(contracted)
    batch = []
    for first, second in zip(left_dims[:-2], right_dims[: max(right.dim() - 2, 0)], strict=True):
        batch.append(flow.unify(first, second, "multiplied"))
    # A weight's own dimensions: what it contracts it consumes, what it leaves it produces.
    flow.role(left, -1, "consumes")
    flow.role(left, -2, "produces")
    flow.role(right, 0 if vector else -2, "consumes")
    if not vector:
        flow.role(right, -1, "produces")
    flow.give(result, (*batch, rows, *columns))
    common = math.prod(left.shape[:-2])
    factors = [(left.shape[-2], rows), (left.shape[-1], left_dims[-1] if contracted is None else contracted)]
    if not vector:
        factors.append((right.shape[-1], columns[0]))
    if batch and any(atoms is not None for atoms in batch):
        factors.extend(zip(left.shape[:-2], batch, strict=True))
        common = 1
    flow.spend("matrix product", [(common, None), *factors])
