"""From chosen units to the plan that removes the others, and the graph of what a plan leaves: arithmetic."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.graph.blocks import Drop
from secateur.graph.cuts import DimensionCut
from secateur.graph.plan import Plan
from secateur.graph.selections import renumberings, selected_away, selections_after, with_selected

if TYPE_CHECKING:
    from secateur.graph.channel_graph import ChannelGraph


def plan_of(
    graph: "ChannelGraph",
    chosen: Mapping[str, tuple[int, ...]],
    selected: Mapping[str, Iterable[int]],
    drops: tuple[Drop, ...],
    gone: tuple[str, ...],
) -> Plan:
    """Return the plan for units that were checked.

    Args:
        graph: of the model.
        chosen: group → sorted units that stay, for every group that loses any.
        selected: path of a selection of channels → entries that stay.
        drops: blocks that go whole.
        gone: groups that go with these.

    Raises:
        PlanError: entries of a selection are out of range, locked, or none is left.
    """

    def stands(path: str) -> bool:
        return not any(drop.covers(path) for drop in drops)

    removed = ~np.append(kept_units(graph, chosen), True)  # the last entry stands for unit -1, which stays
    cuts: Sequence[DimensionCut] = [
        DimensionCut(dim.parameter, dim.dim, dim.units.size, np.flatnonzero(marks))
        for dim in graph.dims
        if stands(dim.parameter) and (marks := removed[dim.units]).any()
    ]
    selections = [selection for selection in graph.selections if stands(selection.module)]
    away = selected_away(
        selections, selected, removed, lambda unit: graph.groups_of(np.asarray([unit], dtype=np.int64))[0].name
    )
    shapes = {spec.name: spec.shape for spec in graph.tensors}
    if selections:
        cuts = with_selected(cuts, selections, away, {name: number for number, name in enumerate(shapes)})
    sizes = []
    for entry in graph.attributes:
        marks = removed[entry.units]
        if marks.any() and stands(entry.module):
            sizes.append((entry.module, entry.attribute, int(marks.size - marks.sum())))
    return Plan(
        fingerprint=graph.fingerprint,
        model_class=graph.model_class,
        shapes=shapes,
        kept=chosen,
        sizes={name: graph.by_name[name].size for name in chosen},
        cuts=tuple(cuts),
        attributes=tuple(sizes),
        regrouped=frozenset(cut.parameter for cut in cuts if cut.parameter in graph.regrouped),
        train_mode=graph.train_mode,
        outputs=graph.outputs,
        drops=drops,
        gone=gone,
        approximate=tuple(sorted(name for name in chosen if graph.by_name[name].approximate is not None)),
        selected={path: tuple(np.flatnonzero(~away[path]).tolist()) for path in sorted(away)},
        renumbered=renumberings(selections, removed),
    )


def kept_units(graph: "ChannelGraph", chosen: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
    """Return whether each unit over all groups stays."""
    keep = np.ones(int(graph.sizes.sum()), dtype=bool)
    for name, units in chosen.items():
        group = graph.group(name)
        keep[group.units] = False
        keep[group.offset + np.asarray(units)] = True
    return keep


def narrowed_graph(graph: "ChannelGraph", plan: Plan) -> "ChannelGraph":
    """Return ``graph``, which lacks the plan's dropped blocks already, without the units that the plan removes."""
    keep = kept_units(graph, plan.kept)
    number = np.append(np.where(keep, np.cumsum(keep) - 1, -2), -1)
    groups, offset = [], 0
    for group in graph.groups:
        size = int(keep[group.units].sum())
        groups.append(replace(group, size=size, offset=offset))
        offset += size
    removed = {(cut.parameter, cut.dim): cut.removed for cut in plan.cuts}
    dims = tuple(
        replace(dim, units=number[np.delete(dim.units, removed.get((dim.parameter, dim.dim), []))])
        for dim in graph.dims
    )
    attributes = []
    for entry in graph.attributes:
        units = number[entry.units]
        attributes.append(replace(entry, units=units[units != -2]))
    shapes = plan.shapes_after
    selections = selections_after(graph.selections, number, removed)
    return replace(
        graph,
        tensors=tuple(replace(spec, shape=shapes[spec.name]) for spec in graph.tensors),
        groups=tuple(groups),
        dims=dims,
        attributes=tuple(attributes),
        costs=graph.costs.reselected(np.asarray([entry.size for entry in selections], dtype=np.int64)),
        selections=selections,
    )
