"""Which blocks go for a budget: whole ones, lowest score first."""

import math
from collections.abc import Mapping

from secateur.cost.budget import amount_text, meter
from secateur.cost.latency_table import LatencyModel
from secateur.cost.size import dropped_header_bytes
from secateur.errors import BudgetError, PlanError
from secateur.graph import ChannelGraph


def ordered_blocks(graph: ChannelGraph, scores: Mapping[str, float]) -> tuple[str, ...]:
    """Return the blocks that may go, lowest score first; of equal ones the first in the network.

    Raises:
        PlanError: an unknown block, or a score that is not a number.
    """
    place = {block.name: number for number, block in enumerate(graph.blocks)}
    for name, value in scores.items():
        graph.block(name)
        if math.isnan(value):
            raise PlanError(f"the score of block {name!r} is NaN; score with sound weights")
    free = [name for name in scores if graph.block(name).locked is None]
    return tuple(sorted(free, key=lambda name: (scores[name], place[name])))


def cheapest_without(
    graph: ChannelGraph,
    order: tuple[str, ...],
    limits: Mapping[str, float],
    table: LatencyModel | None,
    *,
    channels_follow: bool,
) -> tuple[str, ...]:
    """Return the blocks to drop: as few of ``order``, from its beginning, as make every limit hold.

    Args:
        graph: of the model.
        order: blocks that may go, lowest first.
        limits: absolute amounts.
        table: predicts latency.
        channels_follow: leave out the last one, because cutting channels comes nearer to the limit from above.

    Raises:
        BudgetError: without channels to follow, all blocks together are not enough.
    """

    def holds(count: int) -> bool:
        return not _above(graph, order[:count], limits, table)

    if holds(0):
        return ()
    if not holds(len(order)):
        if channels_follow:
            return order
        name, limit = _above(graph, order, limits, table)[0]
        possible = _cost(graph, order, name, table)
        raise BudgetError(
            f"cannot reach {name} ≤ {amount_text(name, limit)}: without all {len(order)} blocks that may be dropped "
            f"({len(graph.blocks)} were found) the model still needs {amount_text(name, possible)}. "
            f"Allow at least {amount_text(name, possible)}, "
            "or give scores of channels too"
        )
    low, high = 1, len(order)  # holds(high) is true throughout
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return order[: high - 1] if channels_follow else order[:high]


def _above(
    graph: ChannelGraph, blocks: tuple[str, ...], limits: Mapping[str, float], table: LatencyModel | None
) -> list[tuple[str, float]]:
    """Return the limits that the model without ``blocks`` does not hold."""
    return [(name, limit) for name, limit in limits.items() if _cost(graph, blocks, name, table) > limit]


def _cost(graph: ChannelGraph, blocks: tuple[str, ...], name: str, table: LatencyModel | None) -> float:
    left = graph.without(blocks)
    header = dropped_header_bytes(graph, blocks) if name == "size_bytes" else 0
    return meter(name, left, table)(left.sizes) + header
