"""From a criterion on channels to one score per residual block."""

from collections.abc import Collection, Iterable

import numpy as np
import torch
from torch import nn

from secateur.criteria.batch_runs import Loss, Mode, Told, check_data, observe
from secateur.criteria.combining import members_as_one, refuse_not_finite, unit_length
from secateur.criteria.criterion import Combine, Criterion, combination, found_in
from secateur.criteria.observation import Observation
from secateur.criteria.sites import Model, Site, sites_of
from secateur.criteria.table import CRITERIA
from secateur.criteria.weights import values_from_weights
from secateur.errors import UsageError
from secateur.graph import Block, ChannelGraph
from secateur.graph.units import Member
from secateur.randomness import generator_for
from secateur.training import Batch

BlockScores = dict[str, float]
"""Block name → its score; higher means keep."""


def score_blocks(
    graph: ChannelGraph,
    model: nn.Module,
    criterion: str | Criterion = "l1",
    *,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    combine: Combine | None = None,
    seed: int = 0,
    only: Collection[str] | None = None,
    mode: Mode = "eval",
    progress: Told | None = None,
) -> BlockScores:
    """Score every block that can be dropped, by any criterion for channels.

    Each place in the block where the criterion sees channels is scored by the mean over them, and the places combine
    to the score of the block. Criteria of weights, and those of the gradients of weights, see the layers that produce
    channels; ``bn_scale`` and ``gate_taylor`` the norms or gates of the block, if it has any; criteria of activations
    what its layers read, its own input included. Nothing but what the criterion itself normalises is normalised: an L1
    norm grows with the inputs of a layer, so that blocks of one stage compare well and early stages look cheaper than
    late ones. Any other mapping of names to numbers will do for :func:`secateur.allocate` too, such as the loss
    measured without each block (see :func:`secateur.masked`).

    Args:
        graph: made from ``model``.
        model: its weights are read, nothing is changed.
        criterion: a name in ``CRITERIA``, or a criterion of your own.
        batches: see :func:`secateur.score`, as for all that are not told here.
        loss: see there.
        combine: how the places of a block combine: mean, sum, max or l2 (root of the sum of squares); None takes what
            the criterion's authors do.
        seed: of ``random``, and of dropout in training mode.
        only: names of the blocks to score; None scores all that can be dropped.
        mode: see there.
        progress: see there.

    Returns:
        {block: score}; higher means keep.

    Raises:
        PlanError: the model is not the one that the graph was made from, or ``only`` names an unknown block.
        UsageError: unknown criterion or combination, a block that is locked or in which the criterion sees nothing, a
            criterion without the data or loss that it needs, or a score that is not a number.
        DataError: there are no batches, or one is empty.
        TrainingError: memory ran out.
    """
    chosen = found_in(CRITERIA, criterion)
    how = combination(chosen, combine)
    blocks = _blocks_to_score(graph, only)
    if chosen.slices is None:
        return {
            block.name: float(torch.rand(1, generator=generator_for(seed, chosen.name, block.name))) for block in blocks
        }
    table = Model.of(graph, model)
    sites = [site for block in blocks for site in _sites_in(chosen, graph, table, block)]
    observation = Observation(chosen, table, model, sites)
    check_data(observation, batches, loss, mode)
    if chosen.needs_data and batches is not None and sites:
        observe(observation, model, batches, loss, mode=mode, seed=seed, progress=progress)
    values = observation.values() if chosen.needs_data else values_from_weights(chosen, table, sites)
    found: dict[str, list[torch.Tensor]] = {block.name: [] for block in blocks}
    for site, value in zip(sites, values, strict=True):
        if value is not None:
            found[site.owner].append((unit_length(value) if chosen.per_layer_l2 else value).mean())
    for name, members in found.items():
        if not members:
            raise UsageError(
                f"criterion {chosen.name!r} sees no channels in the block {name!r}; give its score by hand, or leave "
                "it out with only=…"
            )
    scores = {name: members_as_one(members, how) for name, members in found.items()}
    refuse_not_finite(chosen, scores, "block")
    return {name: float(value) for name, value in scores.items()}


def _blocks_to_score(graph: ChannelGraph, only: Collection[str] | None) -> list[Block]:
    if only is None:
        return [block for block in graph.blocks if block.locked is None]
    if isinstance(only, str):
        raise UsageError(f"only is the text {only!r}; give a list of names, such as [{only!r}]")
    for name in only:
        locked = graph.block(name).locked
        if locked is not None:
            raise UsageError(f"the block {name!r} is not scored, because it cannot be dropped: {locked}")
    return [block for block in graph.blocks if block.name in set(only)]


def _sites_in(criterion: Criterion, graph: ChannelGraph, table: Model, block: Block) -> list[Site]:
    """Return where ``criterion`` sees channels of the block's own tensors, each index being a unit."""
    tensors = set(block.tensors)
    members = [
        Member(dim.parameter, dim.dim, dim.role, np.arange(dim.units.size))
        for dim in graph.dims
        if dim.parameter in tensors
    ]
    wholly_weights = criterion.needs == "weights" and criterion.looks_at == "producers"
    if wholly_weights and not any(member.role == "produces" for member in members):
        return []
    return sites_of(criterion, table, block.name, members)
