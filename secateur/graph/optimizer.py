"""``apply_to_optimizer``: an optimiser goes on after the cut as if it had never known the removed channels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import SurgeryError
from secateur.graph import inputs
from secateur.graph.plan import Plan
from secateur.graph.slicing import cut_tensor
from secateur.graph.slots import stored_tensors

DROPPED = "_secateur_dropped"
"""Attribute of a parameter that ``apply_`` has taken out of its model: the name that it had."""


def apply_to_optimizer(optimizer: Optimizer, *, before: nn.Module, after: nn.Module, plan: Plan) -> None:
    """Point ``optimizer`` at the parameters of the cut model and cut its state along.

    State of a parameter's shape (momentum, Adam's moments) is sliced, scalars (step counts) are kept. Parameters of
    dropped blocks leave their parameter groups with their state; a group left empty stays, because schedulers count
    groups. Everything is checked before anything of the optimiser changes. Where the model is cut in place, give its
    optimisers to :func:`apply_` rather than here, so that the model stays whole too if one is refused.

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
    optimizer_cut(optimizer, names, plan).carry_out({name: entry.tensor for name, entry in cut.items()})


@dataclass(frozen=True)
class _Moved:
    """A parameter that stays: its place in the optimiser, its name in the model, and its cut state."""

    group: dict[str, Any]
    place: int
    parameter: Tensor
    name: str
    state: dict[str, Any]


@dataclass(frozen=True)
class OptimizerCut:
    """What of an optimiser will change; nothing has yet."""

    optimizer: Optimizer
    moved: tuple[_Moved, ...]
    dropped: Mapping[int, Tensor]

    def carry_out(self, parameters: Mapping[str, Tensor]) -> None:
        """Put the cut state in, under the parameters of the cut model."""
        known, groups = self.optimizer.state, self.optimizer.param_groups
        for entry in self.moved:
            replacement = parameters[entry.name]
            if entry.parameter in known:
                del known[entry.parameter]
                known[replacement] = entry.state
            entry.group["params"][entry.place] = replacement
        for parameter in self.dropped.values():
            known.pop(parameter, None)
        for group in groups:
            group["params"][:] = [parameter for parameter in group["params"] if id(parameter) not in self.dropped]


def optimizer_cut(optimizer: Optimizer, names: Mapping[int, str], plan: Plan) -> OptimizerCut:
    """Return the cut of an optimiser's state, changing nothing.

    Args:
        optimizer: of the model before the cut.
        names: identity of each of that model's tensors → its name.
        plan: what is cut.

    Raises:
        SurgeryError: it holds a parameter that the model lacks, or state that cannot be cut.
    """
    moved: list[_Moved] = []
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
            moved.append(_Moved(group, place, parameter, name, state))
    return OptimizerCut(optimizer, tuple(moved), dropped)


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
