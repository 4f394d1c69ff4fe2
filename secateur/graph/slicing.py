"""What is left of a tensor when a plan has cut it: slices, and channel numbers as they are afterwards."""

import torch
from torch import Tensor

from secateur.errors import PlanError
from secateur.graph.cuts import DimensionCut, Renumbering
from secateur.graph.plan import Plan

_BLOCK_BYTES = 2**20

_NUMPY_DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8)


def cut_stored(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """Return what is left of the parameter or buffer ``name``, in new memory.

    Raises:
        PlanError: the tensor numbers a channel that goes.
    """
    return renumbered(cut_tensor(tensor, plan.cuts_of.get(name, ())), plan.renumbering_of.get(name))


def renumbered(numbers: Tensor, renumbering: Renumbering | None) -> Tensor:
    """Return channel numbers as they are when channels before them are gone.

    Raises:
        PlanError: they are no whole numbers, or one of them is gone.
    """
    if renumbering is None or numbers.is_meta:
        return numbers
    removed = torch.from_numpy(renumbering.removed).to(numbers.device)
    if numbers.dtype != torch.int64 or torch.isin(numbers, removed).any():
        raise PlanError(
            f"the plan removes channels that {renumbering.parameter} of this model selects; make a plan from this "
            "model's own graph"
        )
    return numbers - torch.searchsorted(removed, numbers)


def cut_tensor(tensor: Tensor, cuts: tuple[DimensionCut, ...]) -> Tensor:
    """Return a new tensor without the removed indices, in the memory format of ``tensor``."""
    if not cuts:
        return tensor.clone(memory_format=torch.preserve_format)
    if tensor.device.type == "cpu" and tensor.dtype in _NUMPY_DTYPES and tensor.is_contiguous():
        result = _cut_in_blocks(tensor, cuts)
    else:
        result = tensor
        for cut in cuts:
            result = result.index_select(cut.dim, torch.from_numpy(cut.kept).to(tensor.device))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is not None and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last):
        result = result.contiguous(memory_format=last)
    return result


def _cut_in_blocks(tensor: Tensor, cuts: tuple[DimensionCut, ...]) -> Tensor:
    """Cut block by block: what lies between two cuts stays in the cache, and only the result takes memory."""
    shape = list(tensor.shape)
    for cut in cuts:
        shape[cut.dim] = cut.kept.size
    result = torch.empty(shape, dtype=tensor.dtype)
    source, target = tensor.numpy(), result.numpy()
    rows = next((cut.kept for cut in cuts if cut.dim == 0), None)
    others = [cut for cut in cuts if cut.dim != 0]
    step = max(1, _BLOCK_BYTES * shape[0] // max(1, tensor.numel() * tensor.element_size()))
    for start in range(0, shape[0], step):
        block = source[start : start + step] if rows is None else source[rows[start : start + step]]
        for cut in others:
            block = block.take(cut.kept, axis=cut.dim)
        target[start : start + step] = block
    return result
