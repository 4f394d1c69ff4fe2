"""Find which operators hold each group together: of all unions of a trace, those that joined what was apart."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.labels import Atoms, IntArray, Origin
from secateur.graph.recorded import Record
from secateur.graph.ties import CONSTANTS, Joined, Tie, TiedDim, Ties


def ties_of(record: Record, graph: ChannelGraph, unit_of_atom: IntArray) -> Sequence[Tie]:
    """Return the operators that tied the dimensions of each group, group by group, in the order of the run.

    Units of a group are alike, so the unions of its first one tell all. These are sifted here; they are made into
    ties when somebody asks for them, which most users of a graph never do.

    Args:
        record: of the trace.
        graph: built from it.
        unit_of_atom: unit of each atom, -1 for none, shape (atoms,).
    """
    if not record.atoms.edges or not graph.groups:
        return ()
    dims: list[TiedDim] = [(name, axis) for name, labels in record.atoms_of.items() for axis in range(len(labels))]
    groups = len(graph.groups)
    group_of_first_unit = np.full(int(graph.sizes.sum()) + 1, -1, dtype=np.int64)  # the last entry is for unit -1
    group_of_first_unit[[group.offset for group in graph.groups]] = np.arange(groups)
    group_of_atom = group_of_first_unit[unit_of_atom]
    chosen = np.flatnonzero(group_of_atom >= 0)
    node = np.full(unit_of_atom.size, -1, dtype=np.int64)
    node[chosen] = _slots(record, dims, chosen) * groups + group_of_atom[chosen]
    names = tuple(group.name for group in graph.groups)
    return Ties(partial(_joining, _runs(record.atoms, node), tuple(record.atoms.origins), names, dims))


def _joining(
    runs: NDArray[np.int64], origins: tuple[Origin, ...], names: tuple[str, ...], dims: list[TiedDim]
) -> tuple[Tie, ...]:
    """Walk the unions in order and make ties of those that join two dimensions which nothing has joined before."""
    joined, within = Joined[int](), set[int]()
    found: dict[tuple[int, int], list[int]] = {}
    for first, second, origin in runs.tolist():
        if first == second:
            # Slices of one dimension go together; what is joined with it already, or later, follows.
            if within and within.intersection(joined.together(first)):
                continue
            within.add(first)
        elif not joined.join(first, second):
            continue
        found.setdefault((first % len(names), origin), []).extend((first // len(names), second // len(names)))
    return tuple(
        _tie(
            names[group],
            origins[origin] if origin >= 0 else _NOBODY,
            tuple(dims[place] if place < len(dims) else CONSTANTS for place in dict.fromkeys(places)),
        )
        for (group, origin), places in sorted(found.items(), key=lambda item: item[0][0])
    )


_NOBODY = Origin(first=0, end=0, operator="", module="", line="")


def _tie(group: str, made: Origin, members: tuple[TiedDim, ...]) -> Tie:
    return Tie(group, made.operator, made.module, made.line, members)


def _slots(record: Record, dims: list[TiedDim], atoms: IntArray) -> IntArray:
    """Return the number of the dimension of each atom; constants that rules made are numbered after these."""
    ends = np.cumsum([record.stored[name].tensor.shape[axis] for name, axis in dims])
    total = int(ends[-1])
    made = [int(locked[0]) for locked, _ in record.atoms.locks if locked.size and locked[0] >= total]
    starts = np.append(ends, np.unique(made)[1:]) if made else ends
    return np.searchsorted(starts, atoms, side="right")


def _runs(atoms: Atoms, node: IntArray) -> NDArray[np.int64]:
    """Return (node, node, number of the origin) of the unions in order, repeated neighbours once, shape (runs, 3)."""
    lengths = np.asarray([first.size for first, _ in atoms.edges], dtype=np.int64)
    left = np.concatenate([np.ravel(first) for first, _ in atoms.edges])
    right = np.concatenate([np.ravel(second) for _, second in atoms.edges])
    told = np.flatnonzero(node[left] >= 0)
    told = told[left[told] != right[told]]
    origin = np.full(lengths.size, -1, dtype=np.int64)
    for number, made in enumerate(atoms.origins):
        origin[made.first : made.end] = number
    union = np.searchsorted(np.cumsum(lengths), told, side="right")
    rows = np.stack([node[left[told]], node[right[told]], origin[union]], axis=1)
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    told_once: NDArray[np.int64] = rows[new]
    return told_once
