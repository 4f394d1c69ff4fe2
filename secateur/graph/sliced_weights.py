"""Whether the tensors of a cut model are the slices of the original's that a plan keeps."""

import torch
from torch import nn

from secateur.graph.plan import Plan
from secateur.graph.slicing import cut_stored
from secateur.graph.slots import stored_tensors


def copy_sliced(wide: nn.Module, narrow: nn.Module, plan: Plan) -> None:
    """Fill the tensors of the cut model ``narrow`` with slices of the original's."""
    targets = stored_tensors(narrow)
    with torch.no_grad():
        for name, entry in stored_tensors(wide).items():
            if name in plan.dropped_tensors:
                continue
            targets[name].tensor.copy_(cut_stored(name, entry.tensor.detach(), plan))


def shape_problem(small: nn.Module, plan: Plan) -> str | None:
    """Say which tensor of the cut model has not the shape that the plan gives it."""
    found = {name: tuple(entry.tensor.shape) for name, entry in stored_tensors(small).items()}
    for name, shape in plan.shapes_after.items():
        if name not in found:
            return f"the cut model lacks {name}"
        if found[name] != shape:
            return f"{name} should have shape {shape} after the plan, but has {found[name]}"
    left = sorted(plan.dropped_tensors & set(found))
    return f"the cut model still has {left[0]}, which goes with a dropped block" if left else None


def value_problem(model: nn.Module, small: nn.Module, plan: Plan) -> str | None:
    """Say which tensor of the cut model has other values than the original's.

    Redrawn weights prove the structure, this the values: behind a tiny scale no output would show them.
    """
    found = stored_tensors(small)
    for name, entry in stored_tensors(model).items():
        if name in plan.dropped_tensors:
            continue
        expected = cut_stored(name, entry.tensor.detach(), plan)
        value = found[name].tensor.detach()
        if not torch.equal(torch.nan_to_num(expected.to(value.dtype)), torch.nan_to_num(value)):
            return (
                f"{name} of the cut model is not the slice of the original's that the plan keeps; after training "
                "verify the structure alone, with own_weights=False"
            )
    return None
