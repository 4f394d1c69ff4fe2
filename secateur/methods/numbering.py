"""Between the original's numbering of units, in which all cuts are decided, and that of what some of them left."""

from collections.abc import Iterable

import torch

from secateur.criteria.scoring import Scores
from secateur.graph import ChannelGraph, Plan


def step_between(now: ChannelGraph, graph: ChannelGraph, earlier: Plan, total: Plan) -> Plan:
    """Return the plan of the model that ``earlier`` leaves which leads to what ``total`` leaves.

    Args:
        now: of what ``earlier`` leaves.
        graph: of the original.
        earlier: the plan of the cuts before, in the original's numbering.
        total: the plan of these and of the next one.
    """
    kept = {
        name: _places(units, earlier.kept.get(name, range(graph.group(name).size)))
        for name, units in total.kept.items()
    }
    sizes = {entry.module: entry.size for entry in graph.selections}
    selected = {
        path: _places(entries, earlier.selected.get(path, range(sizes[path])))
        for path, entries in total.selected.items()
    }
    blocks = [name for name in total.dropped_blocks if name not in earlier.dropped_blocks]
    return now.plan(kept, selected=selected, blocks=blocks, allow_approximate=bool(total.approximate))


def same_plan(graph: ChannelGraph, plan: Plan) -> Plan:
    """Return what ``plan`` decides for another form of its model, which has the same groups, such as one with gates."""
    return graph.plan(
        plan.kept, selected=plan.selected, blocks=plan.dropped_blocks, allow_approximate=bool(plan.approximate)
    )


def in_original_numbers(graph: ChannelGraph, earlier: Plan, scores: Scores) -> Scores:
    """Return the scores of what ``earlier`` leaves in the original's numbering; what is gone scores -inf."""
    whole = dict(scores)
    for name, kept in earlier.kept.items():
        values = torch.full((graph.group(name).size,), -torch.inf, dtype=torch.float64)
        values[list(kept)] = scores[name]
        whole[name] = values
    return whole


def _places(units: Iterable[int], before: Iterable[int]) -> list[int]:
    """Return the positions of ``units`` among those that there were."""
    place = {unit: position for position, unit in enumerate(before)}
    return [place[unit] for unit in units]
