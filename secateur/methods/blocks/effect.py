"""What dropping a block costs, measured: the loss of the model without it."""

import math
from collections.abc import Collection

import torch
from torch import nn

from secateur.criteria import BlockScores
from secateur.errors import TrainingError
from secateur.graph import ChannelGraph, Plan, apply
from secateur.graph.slots import mode_of
from secateur.training import Task


def measured_effects(
    graph: ChannelGraph, model: nn.Module, names: Collection[str], task: Task, count: int
) -> BlockScores:
    """Return by how much the loss rises when each block alone is dropped from ``model``.

    Args:
        graph: made from ``model``.
        model: stays as it is.
        names: blocks to measure.
        task: yields batches of the training split, and computes their loss.
        count: of the batches, the same ones for every block.

    Returns:
        {block: rise of the mean loss per sample}, in loss units; below 0 where the model does better without it.

    Raises:
        TrainingError: there is no data, or the loss of the model itself is not finite.
    """
    whole = mean_loss(model, task, count)
    if not math.isfinite(whole):
        raise TrainingError(
            f"the loss of the model is {whole} before a block is dropped, so that no effect can be measured; load "
            "sound weights, or train with a lower learning rate"
        )
    return {name: _without(model, graph.drop_blocks([name]), task, count) - whole for name in names}


def mean_loss(model: nn.Module, task: Task, count: int) -> float:
    """Return the mean loss per sample of ``model`` in eval mode, on ``count`` batches.

    Raises:
        TrainingError: the task has no batches.
    """
    total, samples = 0.0, 0
    with torch.no_grad(), mode_of(model, training=False):
        for batch in task.batches(count):
            total += float(task.loss(model, batch)) * len(batch[0])
            samples += len(batch[0])
    if not samples:
        raise TrainingError("the task yields no training batches, so that no effect can be measured; give it some")
    return total / samples


def _without(model: nn.Module, plan: Plan, task: Task, count: int) -> float:
    # A copy without the block computes what the masked model does, at full speed; the cut itself is proved later.
    loss = mean_loss(apply(model, plan, verify_with=None), task, count)
    return math.inf if math.isnan(loss) else loss
