"""Find the selections of channels of a traced model, and take their entries out of its groups."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.labels import IntArray
from secateur.graph.recorded import Record
from secateur.graph.selections import Selection
from secateur.graph.units import Group, ParameterDim, UnitArray


@dataclass(frozen=True)
class _Found:
    """A selection as the trace has it: its entries are units of a group of their own."""

    path: str
    buffer: str
    entries: UnitArray  # unit of each entry
    source: UnitArray  # unit of each channel that it selects from, -1 for none
    places: IntArray  # the channels that it names


def with_selections(
    record: Record, graph: ChannelGraph, unit_of_atom: IntArray, forms: list[int]
) -> tuple[ChannelGraph, IntArray]:
    """Return ``graph`` with its selections, and the unit of each atom; entries count as the units that they select.

    Groups, so, are those of the model without selections, and cutting them takes entries along. That an entry can go
    without its unit is kept in ``graph.selections``. A selection whose channels do more than be read by weights has no
    entries that go alone: what it selects from is locked, because its places are written in its buffer.

    Args:
        record: of the trace.
        graph: built from it, with a group for the entries of each selection.
        unit_of_atom: unit of each atom, -1 for none, shape (atoms,).
        forms: for each selection of the record the number of the form of what it selects from.
    """
    if not record.atoms.selections:
        return graph, unit_of_atom
    found = [_read(record, unit_of_atom, *entry) for entry in record.atoms.selections]
    own = np.zeros(int(graph.sizes.sum()) + 1, dtype=bool)  # the last entry is for unit -1
    for selection in found:
        own[selection.entries[selection.entries >= 0]] = True
    reasons: dict[str, str] = {}
    taken: list[tuple[_Found, Group, int]] = []
    for selection, form in zip(found, forms, strict=True):
        problem = _problem(graph, selection, own, {other.buffer for other in found} - {selection.buffer})
        if problem is None:
            taken.append((selection, graph.groups_of(selection.entries)[0], form))
            continue
        for group in graph.groups_of(np.concatenate([selection.source, selection.entries])):
            reasons.setdefault(group.name, f"selected at fixed channels by {selection.path!r}, whose {problem}")
    for selection, group, _ in taken:  # where an entry cannot go, nor can its channel
        reason = group.locked or reasons.get(group.name)
        for source in graph.groups_of(selection.source[selection.places]):
            if reason is not None:
                reasons.setdefault(source.name, reason)
    groups = tuple(replace(g, locked=g.locked or reasons.get(g.name)) for g in graph.groups)
    graph = _approximate_along(replace(graph, groups=groups), taken)
    return _hidden(record, graph, unit_of_atom, taken)


def _read(record: Record, unit_of_atom: IntArray, path: str, source: IntArray, chosen: IntArray) -> _Found:
    names = {int(dims[0][0]): name for name, dims in record.atoms_of.items() if len(dims) == 1 and dims[0].size}
    buffer = names[int(chosen[0])]
    tensor = record.stored[buffer].tensor.detach()
    # On the meta device there are no values; what a constructor makes is dense.
    places = np.arange(chosen.size) if tensor.is_meta else tensor.cpu().numpy().astype(np.int64)
    return _Found(path, buffer, unit_of_atom[chosen], unit_of_atom[source], places)


def _problem(graph: ChannelGraph, found: _Found, own: NDArray[np.bool_], others: set[str]) -> str | None:
    """Say why the entries of a selection cannot be cut by themselves, or None."""
    if (found.entries < 0).any():
        return "channels are read by no weight"
    groups = graph.groups_of(found.entries)
    if len(groups) > 1 or np.unique(found.entries).size < found.entries.size or groups[0].size != found.entries.size:
        return "channels are not all alike"
    if own[found.source].any():
        return "channels are selected already"
    if found.places.min() < 0 or found.places.max() >= found.source.size:
        return f"indices lie outside of the {found.source.size} channels in front of it"
    mine = set(found.entries.tolist())
    for member in groups[0].members:
        if member.role == "produces" or member.parameter in others:
            return f"channels meet {member.parameter}, which makes or selects channels of its own"
        if member.parameter in graph.regrouped:
            return f"channels are those of groups of the convolution of {member.parameter}"
    if any(mine.intersection(entry.units.tolist()) for entry in graph.attributes):
        return "channels are counted by a number that a module holds"
    return None


def _approximate_along(graph: ChannelGraph, taken: list[tuple[_Found, Group, int]]) -> ChannelGraph:
    """Mark what is selected as cut approximately where that holds of the entries."""
    reasons = {
        source.name: group.approximate
        for found, group, _ in taken
        for source in graph.groups_of(found.source[found.places])
        if group.approximate is not None
    }
    groups = tuple(replace(g, approximate=g.approximate or reasons.get(g.name)) for g in graph.groups)
    return replace(graph, groups=groups)


def _hidden(
    record: Record, graph: ChannelGraph, unit_of_atom: IntArray, taken: list[tuple[_Found, Group, int]]
) -> tuple[ChannelGraph, IntArray]:
    """Take the groups of entries out of the graph, and let what they own belong to the units that they select."""
    hidden = {group.name: number for number, (_, group, _) in enumerate(taken)}
    total = int(graph.sizes.sum())
    stays = np.ones(total, dtype=bool)
    entry_of, selection_of = np.full(total + 1, -1, dtype=np.int64), np.full(total + 1, -1, dtype=np.int64)
    for number, (found, group, _) in enumerate(taken):
        stays[group.units] = False
        entry_of[found.entries] = np.arange(found.entries.size)
        selection_of[found.entries] = number
    new = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)
    for found, _, _ in taken:
        new[found.entries] = new[found.source[found.places]]
    groups, offset, new_group, visible = [], 0, np.full(len(graph.groups), 0, dtype=np.int64), 0
    for number, group in enumerate(graph.groups):
        if group.name in hidden:
            new_group[number] = -1 - hidden[group.name]
            continue
        new_group[number], visible = visible, visible + 1
        groups.append(replace(group, offset=offset))
        offset += group.size
    dims_of: list[list[ParameterDim]] = [[] for _ in taken]
    dims = []
    for dim in graph.dims:
        for number in np.unique(selection_of[dim.units]).tolist():
            if number >= 0:
                entries = np.where(selection_of[dim.units] == number, entry_of[dim.units], -1)
                dims_of[number].append(replace(dim, units=entries))
        units = new[dim.units]
        if (units >= 0).any():
            dims.append(replace(dim, units=units))
    selections = tuple(
        Selection(
            module=found.path,
            norm=_maker(record, found.path),
            buffer=found.buffer,
            indices=tuple(found.places.tolist()),
            source=new[found.source],
            dims=tuple(dims_of[number]),
            locked=graph.by_name[group.name].locked or graph.by_name[group.name].approximate,
        )
        for number, (found, group, _) in enumerate(taken)
    )
    sizes = np.asarray([selection.size for selection in selections], dtype=np.int64)
    forms = np.asarray([form for _, _, form in taken], dtype=np.int64)
    return (
        replace(
            graph,
            groups=tuple(groups),
            dims=tuple(dims),
            attributes=tuple(replace(entry, units=new[entry.units]) for entry in graph.attributes),
            costs=graph.costs.with_selections(new_group, sizes, forms),
            selections=selections,
        ),
        new[unit_of_atom],
    )


def _maker(record: Record, path: str) -> str:
    """Return the path of the module that makes what the selection at ``path`` selects from."""
    calls = record.operations.calls
    own = next((call for call in calls if call.path == path), None)
    if own is None or own.takes < 0:
        return ""
    # Of modules within each other the inner one begins last; one that passes on what it takes makes nothing.
    makers = [call.path for call in calls if call.gives == own.takes != call.takes]
    return makers[-1] if makers else ""
