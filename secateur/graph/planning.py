"""From chosen units to the plan that removes the others, and the graph of what a plan leaves: arithmetic."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.graph.blocks import Block, Drop, outermost
from secateur.graph.cuts import DimensionCut, kept_numbers
from secateur.graph.plan import Plan
from secateur.graph.selections import renumberings, selected_away, selection_named, selections_after, with_selected
from secateur.graph.shortening import vanishing_groups
from secateur.graph.units import UnitArray

if TYPE_CHECKING:
    from secateur.graph.channel_graph import ChannelGraph


def planned(
    graph: "ChannelGraph",
    kept: Mapping[str, Iterable[int]],
    selected: Mapping[str, Iterable[int]],
    blocks: Iterable[str],
    *,
    allow_approximate: bool,
) -> Plan:
    """Return the plan for what :meth:`ChannelGraph.plan` was asked for; see there for arguments and errors."""
    dropped = blocks_to_drop(graph, blocks)
    tensors = frozenset(name for block in dropped for name in block.tensors)
    gone = vanishing_groups(graph, tensors) if dropped else ()
    chosen: dict[str, tuple[int, ...]] = {}
    for name, units in kept.items():
        group = graph.group(name)
        numbers = kept_numbers(f"group {name!r}", units)
        if not numbers:
            raise PlanError(f"group {name!r} would keep none of its {group.size} units; keep at least one")
        if numbers[0] < 0 or numbers[-1] >= group.size:
            bad = numbers[0] if numbers[0] < 0 else numbers[-1]
            raise PlanError(f"group {name!r} has units 0 to {group.size - 1}, but the plan keeps unit {bad}")
        if len(numbers) == group.size:
            continue
        reason = group.locked or (None if allow_approximate else group.approximate)
        if reason is not None:
            raise PlanError(f"group {name!r} cannot be cut: {reason}")
        if name in gone:
            continue
        chosen[name] = tuple(numbers)
    for path in selected:
        selection_named(graph.selections, path)
    return plan_of(graph, chosen, selected, outermost(map(Drop.of, dropped)), tuple(sorted(gone)))


def blocks_to_drop(graph: "ChannelGraph", names: Iterable[str]) -> tuple[Block, ...]:
    """Return the named blocks in the graph's order, without those that lie in another one.

    Raises:
        PlanError: an unknown or locked block, or a single text.
    """
    if isinstance(names, str):
        raise PlanError(f"blocks is the text {names!r}; give a list of names, such as [{names!r}]")
    blocks = {name: graph.block(name) for name in names}
    for block in blocks.values():
        if block.locked is not None:
            raise PlanError(f"the block {block.name!r} cannot be dropped: {block.locked}")
    outer = {drop.block for drop in outermost(map(Drop.of, blocks.values()))}
    return tuple(block for block in graph.blocks if block.name in outer)


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


def sizes_after(graph: "ChannelGraph", plan: Plan) -> UnitArray:
    """Return the units that each group keeps, 0 if it is gone, shape (groups,)."""
    kept = graph.sizes.copy()
    names = {group.name: number for number, group in enumerate(graph.groups)}
    for name, units in plan.kept.items():
        kept[names[graph.group(name).name]] = len(units)
    kept[[names[graph.group(name).name] for name in plan.gone]] = 0
    return kept


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
