"""The graph of a model without some of its blocks, by arithmetic."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.graph.blocks import Block, Drop, renumbered
from secateur.graph.costs import GONE, Costs, Terms
from secateur.graph.labels import IntArray
from secateur.graph.ties import ties_without

if TYPE_CHECKING:
    from secateur.graph.channel_graph import ChannelGraph


def vanishing_groups(graph: "ChannelGraph", gone: Collection[str]) -> tuple[str, ...]:
    """Return the names of the groups that have no index left when the tensors ``gone`` are."""
    stays = np.zeros(int(graph.sizes.sum()) + 1, dtype=bool)
    touched = np.zeros_like(stays)
    for dim in graph.dims:
        (touched if dim.parameter in gone else stays)[dim.units] = True
    return tuple(group.name for group in graph.groups if touched[group.units].any() and not stays[group.units].any())


def without_blocks(graph: "ChannelGraph", blocks: Sequence[Block]) -> "ChannelGraph":
    """Return the graph of the model without ``blocks``. Law: tracing that model gives the same costs and groups.

    Groups keep their names, although a trace may name a group after another layer when its first one is gone.
    """
    drops = [Drop.of(block) for block in blocks]
    gone = frozenset(name for block in blocks for name in block.tensors)
    lost = set(vanishing_groups(graph, gone))
    old_numbers = np.asarray([n for n, group in enumerate(graph.groups) if group.name not in lost], dtype=np.int64)
    keep = np.zeros(int(graph.sizes.sum()), dtype=bool)
    groups, offset = [], 0
    for number in old_numbers.tolist():
        group = graph.groups[number]
        keep[group.units] = True
        groups.append(replace(group, offset=offset))
        offset += group.size
    new_unit = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # the last entry stands for unit -1
    left = np.asarray([spec.name not in gone for spec in graph.tensors], dtype=bool)
    stand = [entry.buffer not in gone for entry in graph.selections]
    costs, compute, storages = _costs(graph, blocks, left, old_numbers, stand)

    def stands(path: str) -> bool:
        return not any(drop.covers(path) for drop in drops)

    return replace(
        graph,
        tensors=tuple(spec for spec in graph.tensors if spec.name not in gone),
        groups=tuple(groups),
        dims=tuple(replace(dim, units=new_unit[dim.units]) for dim in graph.dims if dim.parameter not in gone),
        attributes=tuple(
            replace(entry, units=new_unit[entry.units])
            for entry in graph.attributes
            if stands(entry.module) and (new_unit[entry.units] >= 0).any()
        ),
        regrouped=graph.regrouped - gone,
        costs=costs,
        unreached=tuple(name for name in graph.unreached if name not in gone),
        blocks=tuple(
            renumbered(_without(block, blocks, gone), compute, storages)
            for block in graph.blocks
            if block not in blocks and not set(block.tensors) <= gone
        ),
        ties=ties_without(graph.ties, gone),
        selections=tuple(
            replace(
                entry,
                source=new_unit[entry.source],
                dims=tuple(dim for dim in entry.dims if dim.parameter not in gone),
            )
            for entry, stays in zip(graph.selections, stand, strict=True)
            if stays
        ),
    )


def _without(block: Block, dropped: Sequence[Block], gone: frozenset[str]) -> Block:
    """Return what is left of a block around, or beside, dropped ones."""
    tensors = tuple(name for name in block.tensors if name not in gone)
    if len(tensors) == len(block.tensors):
        return block
    replaced = tuple(
        (path, kind) for path, kind in block.replaced if any(name.startswith(f"{path}.") for name in tensors)
    )
    locked = block.locked
    if len(replaced) < len(block.replaced):
        inner = next(other.name for other in dropped if set(other.tensors) & set(block.tensors))
        locked = f"the dropped block {inner!r} was part of its branch; trace the cut model to drop it too"
    owners = {name.rpartition(".")[0] for name in tensors}
    modules = tuple(path for path in block.modules if path in owners)
    return replace(block, tensors=tensors, replaced=replaced, modules=modules, locked=locked)


def _costs(
    graph: "ChannelGraph",
    blocks: Sequence[Block],
    tensors: NDArray[np.bool_],
    groups: IntArray,
    selections: Sequence[bool],
) -> tuple[Costs, dict[int, int], dict[int, int]]:
    """Return the costs without blocks, and the new numbers of compute terms and storages."""
    costs = graph.costs
    compute = np.ones(costs.compute.constants.size, dtype=bool)
    storages = np.ones(costs.born.size, dtype=bool)
    rows = np.arange(costs.born.size)
    born, dies = costs.born.copy(), costs.dies.copy()
    heir = np.arange(costs.born.size)
    for block in blocks:
        compute[list(block.costs.compute)] = False
        storages[list(block.costs.storages)] = False
        for lost, read in block.costs.merged:
            heir[lost] = read
    for block in blocks:
        for storage, when in block.costs.resized:
            rows[storage] = _last(heir, block.costs.shortcut)
            born[storage] = when
    for storage in np.flatnonzero(heir != np.arange(heir.size)).tolist():
        reader = _last(heir, storage)
        dies[reader] = max(dies[reader], costs.dies[storage])
    forms = costs.forms
    new_group = np.full(len(graph.groups), GONE, dtype=np.int64)
    new_group[groups] = np.arange(groups.size)
    new_selection = np.where(selections, np.cumsum(selections) - 1, GONE).astype(np.int64)
    chosen = np.flatnonzero(compute)
    return (
        Costs(
            forms=forms.renumbered(new_group, new_selection),
            compute=_rows(costs.compute, chosen),
            compute_names=tuple(costs.compute_names[term] for term in chosen.tolist()),
            tensors=_rows(costs.tensors, np.flatnonzero(tensors)),
            storages=_rows(costs.storages, rows[storages]),
            born=born[storages],
            dies=dies[storages],
        ),
        {old: new for new, old in enumerate(chosen.tolist())},
        {old: new for new, old in enumerate(np.flatnonzero(storages).tolist())},
    )


def _last(heir: IntArray, storage: int) -> int:
    """Follow a storage to the one that is read in its place: blocks in a row hand it on."""
    while heir[storage] != storage:
        storage = int(heir[storage])
    return storage


def _rows(terms: Terms, rows: IntArray) -> Terms:
    return Terms(terms.constants[rows], terms.factors[rows], terms.divisors[rows])
