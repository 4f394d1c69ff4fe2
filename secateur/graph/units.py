"""What a channel graph is made of: tensors, the units of their dimensions, groups of units. Numbers and names only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

UnitArray = NDArray[np.int64]


@dataclass(frozen=True)
class TensorSpec:
    """A parameter or buffer: name, shape, bytes per element, and the other names under which it is used."""

    name: str
    shape: tuple[int, ...]
    element_bytes: int
    is_parameter: bool
    is_persistent: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ParameterDim:
    """One dimension of a parameter or buffer and the unit that each index belongs to.

    Attributes:
        parameter: first name of the parameter or buffer.
        dim: which dimension.
        role: ``produces`` (a weight's output), ``consumes`` (its input) or ``carries`` (all else).
        units: number of the unit of each index, over all groups; -1 where the index belongs to none.
    """

    parameter: str
    dim: int
    role: str
    units: UnitArray


@dataclass(frozen=True, eq=False)
class SizeAttribute:
    """An integer of a module that counts channels though the module has no tensor of that size."""

    module: str
    attribute: str
    units: UnitArray


@dataclass(frozen=True)
class Member:
    """A dimension of a parameter or buffer that a group owns indices of.

    Attributes:
        parameter: first name of the parameter or buffer.
        dim: which dimension.
        role: ``produces``, ``consumes`` or ``carries``.
        units: unit of each index within the group, -1 where the index belongs to another group or none.
    """

    parameter: str
    dim: int
    role: str
    units: UnitArray


class DimsByGroup:
    """The dimensions of parameters that each group owns indices of, found when the first group asks."""

    def __init__(self, dims: Sequence[ParameterDim] = (), sizes: UnitArray | None = None) -> None:
        self._dims = dims
        self._ends = np.cumsum(sizes) if sizes is not None else np.zeros(0, dtype=np.int64)

    def is_of(self, dims: Sequence[ParameterDim], sizes: UnitArray) -> bool:
        """Whether it was made of these dimensions and groups of these sizes."""
        return self._dims is dims and np.array_equal(self._ends, np.cumsum(sizes))

    def of(self, offset: int) -> Sequence[ParameterDim]:
        """Return those of the group that begins at unit ``offset``."""
        return self._by_offset.get(offset, ())

    @cached_property
    def _by_offset(self) -> dict[int, list[ParameterDim]]:
        offsets = [0, *self._ends.tolist()]
        found: dict[int, list[ParameterDim]] = {}
        for dim in self._dims:
            units = dim.units[dim.units >= 0]
            if not units.size:
                continue
            first, last = np.searchsorted(self._ends, [units.min(), units.max()], side="right").tolist()
            numbers = [first] if first == last else np.unique(np.searchsorted(self._ends, units, side="right")).tolist()
            for number in numbers:
                found.setdefault(offsets[number], []).append(dim)
        return found


@dataclass(frozen=True)
class Group:
    """Units that are alike: each takes the same slices of the same parameters.

    Attributes:
        name: the module of the first parameter that produces its channels.
        size: number of units.
        offset: number of its first unit over all groups.
        locked: why it cannot be cut, or None.
        approximate: why cutting it is not the same as zeroing it, or None.
        summed: whether its channels are sums of several activations.
    """

    name: str
    size: int
    offset: int
    locked: str | None
    approximate: str | None
    summed: bool = False
    dims: DimsByGroup = field(default_factory=DimsByGroup, repr=False, compare=False)

    @property
    def prunable(self) -> bool:
        """Whether units of it may be cut: neither locked nor only approximate."""
        return self.cuttable()

    def cuttable(self, *, allow_approximate: bool = False) -> bool:
        """Return whether units of it may be cut, also where cutting is not the same as zeroing if that is allowed."""
        return self.locked is None and (allow_approximate or self.approximate is None)

    @property
    def is_stream(self) -> bool:
        """Whether it is a residual stream: what several layers produce is summed in it.

        A gate, as in squeeze-and-excitation, also ties two layers together, but multiplies.
        """
        return self.summed and len({member.parameter for member in self.members if member.role == "produces"}) > 1

    @property
    def units(self) -> slice:
        """The numbers of its units over all groups."""
        return slice(self.offset, self.offset + self.size)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The dimensions of parameters and buffers that it owns indices of."""
        found = []
        for dim in self.dims.of(self.offset):
            mine = (dim.units >= self.offset) & (dim.units < self.offset + self.size)
            if mine.any():
                found.append(Member(dim.parameter, dim.dim, dim.role, np.where(mine, dim.units - self.offset, -1)))
        return tuple(found)


def names_to_cut(groups: Iterable[Group]) -> list[str]:
    """Return the names of the groups that may be cut, in order."""
    return [group.name for group in groups if group.prunable]
