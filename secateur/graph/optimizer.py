"""``apply_to_optimizer``: an optimiser goes on after the cut as if it had never known the removed channels."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import SurgeryError
from secateur.graph import inputs
from secateur.graph.plan import Plan
from secateur.graph.slots import stored_tensors
from secateur.graph.surgery import DROPPED, cut_tensor


def apply_to_optimizer(optimizer: Optimizer, *, before: nn.Module, after: nn.Module, plan: Plan) -> None:
    """Point ``optimizer`` at the parameters of the cut model and cut its state along.

    State of a parameter's shape (momentum, Adam's moments) is sliced, scalars (step counts) are kept. Parameters of
    dropped blocks leave their parameter groups with their state; a group left empty stays, because schedulers count
    groups. Everything is checked before anything changes.

    Args:
        optimizer: the optimiser of ``before``.
        before: the model that the plan was made for; after :func:`apply_` the same object as ``after``.
        after: the cut model.
        plan: what was cut.

    Raises:
        SurgeryError: the optimiser holds a parameter that ``before`` lacks, or state of another shape (named); or
            ``after`` is not ``before`` cut by ``plan``.
    """
    names = {id(entry.tensor): name for name, entry in stored_tensors(before).items()}
    cut = stored_tensors(after)
    for name, shape in plan.shapes_after.items():
        found = tuple(cut[name].tensor.shape) if name in cut else None
        if found != shape:
            raise SurgeryError(f"{name} of the cut model should have shape {shape} by the plan, but is {found}")
    changes: list[tuple[dict[str, Any], int, Tensor, Tensor, dict[str, Any]]] = []
    dropped: dict[int, Tensor] = {}
    for group in optimizer.param_groups:
        for place, parameter in enumerate(group["params"]):
            if names.get(id(parameter), getattr(parameter, DROPPED, None)) in plan.dropped_tensors:
                dropped[id(parameter)] = parameter
                continue
            if id(parameter) not in names:
                raise SurgeryError(
                    f"the optimiser holds a parameter of shape {tuple(parameter.shape)} that the model lacks; "
                    "give the model that the optimiser was made for as `before`"
                )
            name = names[id(parameter)]
            state = {
                key: _cut_state(name, key, value, plan) for key, value in optimizer.state.get(parameter, {}).items()
            }
            changes.append((group, place, parameter, cut[name].tensor, state))
    for group, place, parameter, replacement, state in changes:
        known = parameter in optimizer.state
        if known:
            del optimizer.state[parameter]
            optimizer.state[replacement] = state
        group["params"][place] = replacement
    for parameter in dropped.values():
        optimizer.state.pop(parameter, None)
    for group in optimizer.param_groups:
        group["params"][:] = [parameter for parameter in group["params"] if id(parameter) not in dropped]


def _cut_state(name: str, key: str, value: Any, plan: Plan) -> Any:
    if not isinstance(value, Tensor):
        if plan.cuts and any(tensor.numel() > 1 for tensor in inputs.tensors_of(value)):
            raise SurgeryError(
                f"the optimiser's state {key!r} of {name} is a {type(value).__name__} of tensors, which cannot be "
                "cut: make a new optimiser for the cut model"
            )
        return value
    if value.numel() <= 1 and value.dim() <= 1:  # a count
        return value
    if tuple(value.shape) == plan.shapes[name]:
        with torch.no_grad():
            return cut_tensor(value.detach(), plan.cuts_of.get(name, ()))
    if name not in plan.cuts_of and value.numel() <= math.prod(plan.shapes[name]):
        return value  # of another shape, but its parameter is not touched
    raise SurgeryError(
        f"the optimiser's state {key!r} of {name} has shape {tuple(value.shape)}, the parameter {plan.shapes[name]}; "
        "only state of the parameter's own shape can be cut: make a new optimiser for the cut model"
    )
