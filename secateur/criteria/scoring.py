"""From a criterion on slices to one score per unit: where to look, and how a group's members combine."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.criteria.norms import l1_norm, l2_norm
from secateur.errors import PlanError, UsageError
from secateur.graph import ChannelGraph, Group
from secateur.graph.units import ParameterDim
from secateur.names import unknown_name
from secateur.randomness import generator_for

Combine = Literal["mean", "sum", "max", "l2"]
Scores = dict[str, Tensor]
"""Group name → score of each unit, shape (units,); higher means keep."""


@dataclass(frozen=True)
class Criterion:
    """A way to score channels.

    Attributes:
        name: as given on the command line.
        slices: pure function (n, elements) → (n,) on the slices of a producing weight; None draws at random.
        source: where it comes from.
        globally_comparable: whether scores of different groups are on one scale as they are.
    """

    name: str
    slices: Callable[[Tensor], Tensor] | None
    source: str
    globally_comparable: bool = False


CRITERIA: Mapping[str, Criterion] = {
    "l1": Criterion("l1", l1_norm, "Li et al. 2017, arXiv:1608.08710, §3.1"),
    "l2": Criterion("l2", l2_norm, "Li et al. 2017, arXiv:1608.08710, §4.5"),
    "random": Criterion("random", None, "the control of Li et al. 2017, arXiv:1608.08710, §4.4", True),
}


def criterion_named(name: str) -> Criterion:
    """Return a criterion by name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name not in CRITERIA:
        raise UsageError(unknown_name("criterion", name, CRITERIA))
    return CRITERIA[name]


def score(
    graph: ChannelGraph,
    model: nn.Module,
    criterion: str | Criterion = "l1",
    *,
    combine: Combine = "mean",
    seed: int = 0,
    scored_by: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Scores:
    """Score every unit of every group that can be cut.

    A criterion sees the slices of the weights that *produce* a group's channels (of all its weights where none
    does). A unit that owns several indices of one weight gets their sum; several weights are combined.

    Args:
        graph: made from ``model``.
        model: its weights are read, nothing is changed.
        criterion: a name in ``CRITERIA``, or a criterion of your own.
        combine: how the members of a group combine: mean, sum, max or l2 (root of the sum of squares).
        seed: of ``random``.
        scored_by: group → the one producing weight whose slices count, where the others are to follow it.

        only: names of the groups to score; None scores all that can be cut.

    Returns:
        {group: scores, shape (units,), float64, on the CPU}; higher means keep.

    Raises:
        PlanError: the model is not the one that the graph was made from.
        UsageError: unknown criterion or combination, a score that is not a number, or a weight in ``scored_by`` that
            does not produce its group.
    """
    chosen = criterion_named(criterion) if isinstance(criterion, str) else criterion
    if combine not in ("mean", "sum", "max", "l2"):
        raise UsageError(unknown_name("combination", combine, ("mean", "sum", "max", "l2")))
    groups = [group for group in graph.groups if group.locked is None and (only is None or group.name in only)]
    if chosen.slices is None:
        return {
            group.name: torch.rand(group.size, generator=generator_for(seed, chosen.name, group.name)).double()
            for group in groups
        }
    leaders = dict(scored_by or {})
    _check_leaders(graph, leaders)
    totals = _by_unit(graph, model, chosen.slices, combine, leaders, groups)
    scores = {group.name: torch.from_numpy(totals[group.units].copy()) for group in groups}
    for name, values in scores.items():
        if not torch.isfinite(values).all():
            raise UsageError(
                f"criterion {chosen.name!r} gives group {name!r} a score that is not finite; "
                "the weights hold NaN or infinity: load sound weights"
            )
    return scores


def _check_leaders(graph: ChannelGraph, leaders: Mapping[str, str]) -> None:
    for name, parameter in leaders.items():
        producers = [member.parameter for member in graph.group(name).members if member.role == "produces"]
        if parameter not in producers:
            raise UsageError(unknown_name(f"weight that produces group {name!r}", parameter, producers))


def _by_unit(
    graph: ChannelGraph,
    model: nn.Module,
    slices: Callable[[Tensor], Tensor],
    combine: Combine,
    leaders: Mapping[str, str],
    groups: Sequence[Group],
) -> NDArray[np.float64]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    count = int(graph.sizes.sum())
    produced = np.zeros(count, dtype=bool)
    wanted = np.zeros(count + 1, dtype=bool)  # the last entry stands for unit -1
    for group in groups:
        wanted[group.units] = True
    dims = [dim for dim in graph.dims if wanted[dim.units].any()]
    makers = [dim for dim in dims if dim.role == "produces"]
    for dim in makers:
        produced[dim.units[dim.units >= 0]] = True
    # Units that no weight produces (an embedding, a bare parameter) are scored by all that carries them.
    others = [
        dim
        for dim in dims
        if dim.role != "produces" and dim.parameter in parameters and not produced[dim.units[dim.units >= 0]].all()
    ]
    total, members = np.zeros(count), np.zeros(count)
    for dim in makers + others:
        values, present = _of_dim(parameters, dim, slices, count)
        if dim.role != "produces":
            present &= ~produced
        for name, leader in leaders.items():
            if dim.parameter != leader:
                present[graph.group(name).units] = False
        if combine == "max":
            total = np.where(present, np.maximum(total, values), total)
        else:
            total += np.where(present, values**2 if combine == "l2" else values, 0.0)
        members += present
    if combine == "mean":
        total /= np.maximum(members, 1)
    elif combine == "l2":
        total = np.sqrt(total)
    return total


def _of_dim(
    parameters: Mapping[str, Tensor], dim: ParameterDim, slices: Callable[[Tensor], Tensor], count: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    weight = parameters.get(dim.parameter)
    if weight is None or weight.shape[dim.dim] != dim.units.size:
        found = None if weight is None else tuple(weight.shape)
        raise PlanError(
            f"the graph has {dim.parameter} with {dim.units.size} channels in dimension {dim.dim}, but the model's is "
            f"{found}; trace this model again"
        )
    rows = weight.detach().movedim(dim.dim, 0).flatten(1) if weight.dim() > 1 else weight.detach().unsqueeze(1)
    mine = dim.units >= 0
    values = slices(rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows)
    if values.shape != (dim.units.size,):
        raise UsageError(
            f"the criterion gives shape {tuple(values.shape)} for {dim.units.size} channels of {dim.parameter}"
        )
    by_index = values.double().cpu().numpy()
    sums: NDArray[np.float64] = np.bincount(dim.units[mine], weights=by_index[mine], minlength=count).astype(np.float64)
    present = np.zeros(count, dtype=bool)
    present[dim.units[mine]] = True
    return sums, present
