"""From a criterion on slices to one score per residual block."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from secateur.criteria.scoring import Combine, Criterion, criterion_named
from secateur.errors import PlanError, UsageError
from secateur.graph import ChannelGraph
from secateur.names import unknown_name
from secateur.randomness import generator_for

BlockScores = dict[str, float]
"""Block name → its score; higher means keep."""


def score_blocks(
    graph: ChannelGraph,
    model: nn.Module,
    criterion: str | Criterion = "l1",
    *,
    combine: Combine = "mean",
    seed: int = 0,
    only: Collection[str] | None = None,
) -> BlockScores:
    """Score every block that can be dropped, by any criterion for channels.

    Each weight of the block is scored by the mean over the channels that it produces, and the weights combine to the
    score of the block. Nothing is normalised: an L1 norm grows with the inputs of a layer, so that blocks of one
    stage compare well and early stages look cheaper than late ones. Any other mapping of names to numbers will do for
    :func:`secateur.allocate` too, such as the loss measured without each block (see :func:`secateur.masked`).

    Args:
        graph: made from ``model``.
        model: its weights are read, nothing is changed.
        criterion: a name in ``CRITERIA``, or a criterion of your own.
        combine: how the weights of a block combine: mean, sum, max or l2 (root of the sum of squares).
        seed: of ``random``.
        only: names of the blocks to score; None scores all that can be dropped.

    Returns:
        {block: score}; higher means keep.

    Raises:
        PlanError: the model is not the one that the graph was made from.
        UsageError: unknown criterion or combination, or a score that is not a number.
    """
    chosen = criterion_named(criterion) if isinstance(criterion, str) else criterion
    if combine not in ("mean", "sum", "max", "l2"):
        raise UsageError(unknown_name("combination", combine, ("mean", "sum", "max", "l2")))
    blocks = [block for block in graph.blocks if block.locked is None and (only is None or block.name in only)]
    if chosen.slices is None:
        return {
            block.name: float(torch.rand(1, generator=generator_for(seed, chosen.name, block.name))) for block in blocks
        }
    shapes = {spec.name: spec.shape for spec in graph.tensors}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    produced = {dim.parameter: dim.dim for dim in graph.dims if dim.role == "produces"}
    scores: BlockScores = {}
    for block in blocks:
        values = []
        for name in block.tensors:
            if name not in produced:
                continue
            weight = parameters.get(name)
            if weight is None or tuple(weight.shape) != shapes[name]:
                found = None if weight is None else tuple(weight.shape)
                raise PlanError(
                    f"the graph has {name} of shape {shapes[name]}, but the model's is {found}; trace this model again"
                )
            rows = weight.detach().movedim(produced[name], 0).flatten(1)
            rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
            values.append(chosen.slices(rows).double().mean())
        if not values:
            raise UsageError(
                f"no weight of the block {block.name!r} produces channels; give its score by hand, or leave it out "
                "with only=…"
            )
        scores[block.name] = _combined(torch.stack(values), combine)
        if not torch.isfinite(torch.tensor(scores[block.name])):
            raise UsageError(
                f"criterion {chosen.name!r} gives block {block.name!r} a score that is not finite; "
                "the weights hold NaN or infinity: load sound weights"
            )
    return scores


def _combined(values: Tensor, combine: Combine) -> float:
    if combine == "l2":
        return float(values.square().sum().sqrt())
    if combine == "max":
        return float(values.max())
    return float(values.sum() if combine == "sum" else values.mean())
