"""One verb for all criteria: from a model, and batches where they are needed, to one score per unit."""

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from secateur.criteria.accumulator import Accumulator, Missing
from secateur.criteria.batch_runs import Loss, Mode, Told, check_data, observe
from secateur.criteria.criterion import Combine as Combine
from secateur.criteria.criterion import Criterion as Criterion
from secateur.criteria.criterion import Needs as Needs
from secateur.criteria.criterion import Scores as Scores
from secateur.criteria.table import CRITERIA as CRITERIA
from secateur.criteria.table import criterion_named as criterion_named
from secateur.graph import ChannelGraph
from secateur.training import Batch


def score(
    graph: ChannelGraph,
    model: nn.Module,
    criterion: str | Criterion = "l1",
    *,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    combine: Combine | None = None,
    seed: int = 0,
    scored_by: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    missing: Missing = "refuse",
    mode: Mode = "eval",
    progress: Told | None = None,
) -> Scores:
    """Score every unit of every group that can be cut.

    Criteria of weights see the slices of the weights that *produce* a group's channels (of all its weights where none
    does). A unit that owns several indices of one weight gets their sum; several weights are combined.

    Criteria of gradients and activations run the model on ``batches``. Each says for itself what it takes of one
    mini-batch, and whether mini-batches are summed or averaged. What a unit's indices do is then added up before the
    criterion's function, since the unit goes whole. *Activations* of a group are what the convolutions and linear
    layers read that consume it, hence behind norm and ReLU; the readings of a residual stream are its members.
    Gradients are computed for nothing but what the criterion looks at. Afterwards flags, gradients, buffers and hooks
    of the model are as before.

    Args:
        graph: made from ``model``.
        model: its weights are read, nothing is changed.
        criterion: a name in ``CRITERIA``, or a criterion of your own.
        batches: mini-batches on the model's device, for criteria that need data, such as ``task.batches(10)``. Scores
            of gradients depend on the batch size, because absolute values are taken of each batch's mean loss.
        loss: maps a model and a batch to the mean loss, such as ``task.loss``, for criteria that need gradients.
            Without one, the model is called on the first of each pair (inputs, labels).
        combine: how the members of a group combine: mean, sum, max or l2 (root of the sum of squares); None takes what
            the criterion's authors do, which is the sum for ``gate_taylor`` (their Eq. 9), and the mean for norms.
        seed: of ``random``, and of dropout in training mode.
        scored_by: group → the one producing weight whose slices count, where the others are to follow it; for criteria
            that need the weights alone.
        only: names of the groups to score; None scores all that can be cut.
        missing: what happens to groups that the criterion cannot see, such as layers without norm under ``bn_scale``:
            ``refuse`` names them, so that none escapes the cut unnoticed; ``leave`` returns no scores for them, and
            :func:`secateur.allocate` leaves them whole.
        mode: ``eval`` runs the network as it will be used, each sample by itself; ``train`` with batch statistics
            and dropout, as Gate Decorator scores while it trains.
        progress: called with the number of mini-batches done, after each.

    Returns:
        {group: scores, shape (units,), float64, on the CPU}; higher means keep.

    Raises:
        PlanError: the model is not the one that the graph was made from, or ``only`` names an unknown group.
        UsageError: an unknown criterion, combination or setting; a criterion without the data or loss that it needs; a
            group that it cannot see; a loss or score that is not a number; or a weight in ``scored_by`` that does not
            produce its group.
        DataError: there are no batches, or one is empty.
        TrainingError: memory ran out.
    """
    accumulator = Accumulator(
        graph, model, criterion, combine=combine, seed=seed, scored_by=scored_by, only=only, missing=missing
    )
    observation = accumulator.observation
    check_data(observation, batches, loss, mode)
    if observation.criterion.needs_data and batches is not None and observation.sites:
        observe(observation, model, batches, loss, mode=mode, seed=seed, progress=progress)
    return accumulator.scores()
