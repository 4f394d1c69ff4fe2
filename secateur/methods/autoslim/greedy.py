"""Greedy slimming: from the largest network down to each budget, always where accuracy suffers least.

Source: Yu & Huang 2019, "AutoSlim: Towards one-shot architecture search for channel numbers", arXiv:1903.11728,
section 3.3.
"""

from collections.abc import Callable, Sequence

from torch import nn

from secateur.cost import Budget, LatencyModel
from secateur.graph import ChannelGraph
from secateur.methods.autoslim.front import Configuration, Front
from secateur.methods.autoslim.searching import Batches, Search, Speed
from secateur.slimmable import Widths, WidthSpace, enlarge_primitive_cache


def greedy_slimming(
    model: nn.Module,
    space: WidthSpace,
    batches: Batches,
    budgets: Sequence[Budget],
    *,
    graph: ChannelGraph | None = None,
    original: ChannelGraph | None = None,
    table: LatencyModel | None = None,
    speed: Speed | None = None,
    begun: Front | None = None,
    after_step: Callable[[Front], None] | None = None,
    allow_approximate: bool = False,
) -> Front:
    """Go down from the largest network of a space until every budget is held, and return all that lay on the way.

    In each step every group that has a smaller width is tried out with it, all others staying as they are; the one
    that leaves the most validation samples right loses its units. Of equally good ones it is the first in the order of
    the graph's groups. Batch norm goes by the batch itself, so the batches should be large (hundreds of samples), and
    they are the same in every step.

    Args:
        model: the trained large network, evaluated in evaluation mode; afterwards as it was.
        space: the widths to choose from.
        batches: of data that neither trains nor tests, on the model's device; (inputs, labels).
        budgets: what networks may cost; the search ends when the last of them is held.
        graph: of ``model``; traced anew if left out.
        original: of the network that shares in budgets refer to; the large network's if left out.
        table: for budgets of latency; None takes the one that the first of the budgets brings.
        speed: how to be fast.
        begun: a front of the same search that was interrupted; it goes on from its last configuration, and finds what
            an unbroken search does.
        after_step: given the front so far after each step, the place to save it.
        allow_approximate: also cut groups where cutting is not the same as zeroing.

    Returns:
        The front. ``front.meeting(budget.limits(original, table))`` is the network of a budget.

    Raises:
        BudgetError: there is no budget, or even the narrowest network is above one.
        PlanError: the space or the front is another network's.
        DataError: there are no samples, or the network returns no logits.
    """
    enlarge_primitive_cache()
    table = table or next((one.latency_model for one in budgets if one.latency_model is not None), None)
    search = Search.of(model, space, batches, graph, table, speed or Speed(), approximate=allow_approximate)
    limits = search.limits_of(budgets, original or search.graph)
    with search.ready():
        front = search.begin(begun)
        if begun is None and after_step is not None:
            after_step(front)
        while any(front.meeting(one) is None for one in limits):
            front = search.step(front)
            if after_step is not None:
                after_step(front)
    return front


def estimate(
    model: nn.Module,
    batches: Batches,
    widths: Widths,
    *,
    graph: ChannelGraph,
    allow_approximate: bool = False,
) -> Configuration:
    """Return what the search would say of any widths, those of its space or others.

    Args:
        model: the trained large network, evaluated in evaluation mode; afterwards as it was.
        batches: the same as in the search.
        widths: group → units that it keeps; the others keep all.
        graph: of ``model``.
        allow_approximate: also cut groups where cutting is not the same as zeroing.

    Raises:
        DataError: there are no samples, or the network returns no logits.
    """
    space = WidthSpace(graph.fingerprint, {})
    speed = Speed(share_prefixes=False)
    search = Search.of(model, space, batches, graph, None, speed, approximate=allow_approximate)
    with search.ready():
        return search.estimated(widths)
