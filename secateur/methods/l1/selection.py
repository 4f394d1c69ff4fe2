"""Which filters each layer keeps: by their norms alone, or knowing what the layer before has lost."""

import copy
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import nn

from secateur.criteria import score
from secateur.criteria.scoring import Combine, Scores
from secateur.graph import ChannelGraph, Group

Selection = Literal["independent", "greedy"]


def select(
    graph: ChannelGraph,
    model: nn.Module,
    counts: Mapping[str, int],
    *,
    selection: Selection,
    combine: Combine,
    scored_by: Mapping[str, str],
) -> dict[str, list[int]]:
    """Return which units of each layer stay: those of the largest norms.

    Args:
        graph: of ``model``.
        model: its weights are read.
        counts: layer → units that it keeps.
        selection: ``independent`` sums a filter's weights over all input channels; ``greedy`` leaves out those of
            channels that the selection has taken from earlier layers (Li et al. 2017, §3.3).
        combine: how the weights of a residual stream combine.
        scored_by: layer → the one weight whose norms decide.
    """
    if selection == "independent":
        scores = l1_scores(graph, model, combine, scored_by)
        return {name: largest(scores, name, count) for name, count in counts.items()}
    without = copy.deepcopy(model)
    kept: dict[str, list[int]] = {}
    for group in graph.groups:
        if group.name in counts:
            scores = l1_scores(graph, without, combine, scored_by, only=(group.name,))
            kept[group.name] = largest(scores, group.name, counts[group.name])
            _silence(without, group, kept[group.name])
    return kept


def l1_scores(
    graph: ChannelGraph,
    model: nn.Module,
    combine: Combine,
    scored_by: Mapping[str, str],
    *,
    only: Collection[str] | None = None,
) -> Scores:
    """Return the L1 norm of every unit's producing weights, of all groups or of ``only`` some."""
    return score(graph, model, "l1", combine=combine, scored_by=scored_by, only=only)


def largest(scores: Scores, name: str, count: int) -> list[int]:
    """Return the ``count`` units of largest score in rising order; of equals, the later ones stay."""
    order = torch.argsort(scores[name], stable=True)
    return sorted(order[len(order) - count :].tolist())


def _silence(model: nn.Module, group: Group, kept: list[int]) -> None:
    """Zero the weights that read the units of ``group`` which are not kept."""
    gone = torch.ones(group.size + 1, dtype=torch.bool)
    gone[kept] = False
    gone[-1] = False  # stands for indices of other groups
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for member in group.members:
            if member.role == "consumes" and member.parameter in parameters:
                weight = parameters[member.parameter]
                rows = gone[torch.from_numpy(member.units)].nonzero().flatten().to(weight.device)
                weight.index_fill_(member.dim, rows, 0.0)
