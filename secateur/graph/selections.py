"""Selections of channels: lists of indices by which one reader of a normalised stream leaves channels out.

A unit of a stream goes everywhere at once. An entry of a selection can also go alone: the stream and the norm in front
keep the channel, and only what reads the selection loses it. When a channel of the stream goes, the entry that names it
goes too, and the entries behind it name other numbers than before.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError
from secateur.graph.cuts import DimensionCut, Renumbering, kept_numbers
from secateur.graph.units import ParameterDim, UnitArray
from secateur.names import unknown_name


@dataclass(frozen=True, eq=False)
class Selection:
    """A :class:`~secateur.models.selection.ChannelSelection` of the model.

    Attributes:
        module: path of the selection.
        norm: path of the norm whose output it selects from; empty if no single module makes what it selects from.
        buffer: name of its index buffer.
        indices: for each entry of the buffer, the channel of the norm that it selects.
        source: unit of each channel of the norm over all groups, -1 for none, shape (channels of the norm,).
        dims: dimensions that are as long as the selection or hold it as a part; their ``units`` are numbers of
            entries, -1 elsewhere.
        locked: why no entry can go alone, or None.
    """

    module: str
    norm: str
    buffer: str
    indices: tuple[int, ...]
    source: UnitArray
    dims: tuple[ParameterDim, ...]
    locked: str | None = None

    @property
    def size(self) -> int:
        """Number of entries; plans number them from 0, as in the buffer."""
        return len(self.indices)

    @property
    def is_dense(self) -> bool:
        """Whether it selects every channel of its norm."""
        return self.size == self.source.size

    @cached_property
    def units(self) -> UnitArray:
        """Unit of the channel that each entry selects, -1 for none, shape (size,)."""
        found: UnitArray = self.source[np.asarray(self.indices, dtype=np.int64)]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        return {
            "module": self.module,
            "norm": self.norm,
            "buffer": self.buffer,
            "indices": list(self.indices),
            "source": self.source.tolist(),
            "dims": [
                {"parameter": d.parameter, "dim": d.dim, "role": d.role, "units": d.units.tolist()} for d in self.dims
            ],
            "locked": self.locked,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Selection":
        """Read what :meth:`to_json` wrote."""
        dims = tuple(ParameterDim(**{**d, "units": np.asarray(d["units"], np.int64)}) for d in data["dims"])
        source = np.asarray(data["source"], dtype=np.int64)
        return cls(**{**data, "indices": tuple(data["indices"]), "source": source, "dims": dims})


Marks = NDArray[np.bool_]
"""Which of something goes."""


def selection_named(selections: Sequence[Selection], path: str) -> Selection:
    """Return the selection at ``path``.

    Raises:
        PlanError: there is none; the nearest path is suggested.
    """
    found = next((selection for selection in selections if selection.module == path), None)
    if found is None:
        raise PlanError(unknown_name("channel selection", path, [selection.module for selection in selections]))
    return found


def selected_away(
    selections: Sequence[Selection], selected: Mapping[str, Iterable[int]], removed: Marks, groups: Callable[[int], str]
) -> dict[str, Marks]:
    """Return which entries go from each selection: those not kept, and those whose channel goes.

    Args:
        selections: those that stay in the model.
        selected: path of a selection → numbers of the entries that it keeps; others keep all that they can.
        removed: whether each unit goes, with a last entry for unit -1.
        groups: gives the name of the group of a unit.

    Raises:
        PlanError: an entry out of range, a locked selection, or one that is left empty.
    """
    gone: dict[str, Marks] = {}
    for selection in selections:
        away = removed[selection.units]
        if selection.module in selected:
            away = away | ~_kept(selection, selected[selection.module])
        if away.all():
            lost = selection.units[removed[selection.units]]
            taken = f", of which the cut of group {groups(int(lost[0]))!r} takes some" if lost.size else ""
            raise PlanError(
                f"the selection {selection.module!r} would keep none of its {selection.size} channels"
                f"{taken}: keep at least one"
            )
        if away.any():
            gone[selection.module] = away
    return gone


def _kept(selection: Selection, entries: Iterable[int]) -> Marks:
    what = f"selection {selection.module!r}"
    numbers = kept_numbers(what, entries)
    if not numbers:
        raise PlanError(f"the {what} would keep none of its {selection.size} channels: keep at least one")
    if numbers[0] < 0 or numbers[-1] >= selection.size:
        bad = numbers[0] if numbers[0] < 0 else numbers[-1]
        raise PlanError(f"the {what} has entries 0 to {selection.size - 1}, but the plan keeps entry {bad}")
    if len(numbers) < selection.size and selection.locked is not None:
        raise PlanError(f"the {what} cannot be cut: {selection.locked}")
    keep = np.zeros(selection.size, dtype=bool)
    keep[numbers] = True
    return keep


def with_selected(
    cuts: Sequence[DimensionCut], selections: Sequence[Selection], gone: Mapping[str, Marks], order: Mapping[str, int]
) -> tuple[DimensionCut, ...]:
    """Return ``cuts`` with what goes because entries of selections do, in the order of the model's tensors."""
    found = {(cut.parameter, cut.dim): cut for cut in cuts}
    for selection in selections:
        away = gone.get(selection.module)
        for dim in selection.dims if away is not None else ():
            assert away is not None
            marks = np.append(away, False)[dim.units]  # the last entry stands for -1
            earlier = found.get((dim.parameter, dim.dim))
            if earlier is not None:
                marks[earlier.removed] = True
            if marks.any():
                cut = DimensionCut(dim.parameter, dim.dim, dim.units.size, np.flatnonzero(marks))
                found[dim.parameter, dim.dim] = cut
    return tuple(sorted(found.values(), key=lambda cut: (order[cut.parameter], cut.dim)))


def renumberings(selections: Sequence[Selection], removed: Marks) -> tuple[Renumbering, ...]:
    """Return what goes from the channels that selections number, for each whose norm loses any."""
    found = []
    for selection in selections:
        marks = removed[selection.source]
        if marks.any():
            found.append(Renumbering(selection.buffer, marks.size, np.flatnonzero(marks)))
    return tuple(found)


def selections_after(
    selections: Sequence[Selection], number: UnitArray, removed: Mapping[tuple[str, int], NDArray[np.int64]]
) -> tuple[Selection, ...]:
    """Return the selections of the cut model.

    Args:
        selections: before the cut, without those of dropped blocks.
        number: new number of each unit, -2 where it goes, with a last entry of -1 for unit -1.
        removed: (parameter, dimension) → removed indices.
    """
    found = []
    for selection in selections:
        stays = np.ones(selection.size, dtype=bool)
        stays[removed.get((selection.buffer, 0), [])] = False
        units = number[selection.source]
        place = np.cumsum(units != -2) - 1
        entry = np.append(np.where(stays, np.cumsum(stays) - 1, -2), -1)
        dims = []
        for dim in selection.dims:
            left = np.delete(entry[dim.units], removed.get((dim.parameter, dim.dim), []))
            dims.append(replace(dim, units=left))
        indices = place[np.asarray(selection.indices, dtype=np.int64)[stays]]
        found.append(
            replace(selection, indices=tuple(indices.tolist()), source=units[units != -2], dims=tuple(dims)),
        )
    return tuple(found)
