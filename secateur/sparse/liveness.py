"""Which units still have live inputs and outputs, as units die one after another: booleans only, no arithmetic."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secateur.graph import ChannelGraph, Group, Member
from secateur.sparse.masks import Masks

BoolArray = NDArray[np.bool_]


@dataclass
class Liveness:
    """The live weights of a model, from which those of dead units are taken away.

    Attributes:
        graph: of the model.
        live: for each weight that produces or consumes units which of its entries are live, in its own shape.
        dead: for each group that may be cut which of its units are gone, shape (units,).
    """

    graph: ChannelGraph
    live: dict[str, BoolArray]
    dead: dict[str, BoolArray] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ChannelGraph, masks: Masks) -> "Liveness":
        """Begin with what ``masks`` keep; weights without a mask are live."""
        first_name = {alias: spec.name for spec in graph.tensors for alias in (spec.name, *spec.aliases)}
        kept = {first_name[name]: masks[name].numpy() for name in masks if name in first_name}
        shapes = {spec.name: spec.shape for spec in graph.tensors}
        weights = {dim.parameter for dim in graph.dims if dim.role in ("produces", "consumes")}
        live = {name: kept[name] if name in kept else np.ones(shapes[name], dtype=bool) for name in sorted(weights)}
        return cls(graph, live, {group.name: np.zeros(group.size, dtype=bool) for group in graph.groups})

    @property
    def groups(self) -> list[Group]:
        """The groups that may be cut exactly."""
        return [group for group in self.graph.groups if group.prunable]

    def without_inputs(self, group: Group) -> BoolArray:
        """Return which units no live weight produces; none where nothing produces, shape (units,)."""
        return self._without(group, "produces")

    def without_outputs(self, group: Group) -> BoolArray:
        """Return which units no live weight consumes; none where nothing consumes, shape (units,)."""
        return self._without(group, "consumes")

    def reads(self, member: Member) -> BoolArray:
        """Return which indices of a dimension have a live weight, shape (indices,)."""
        array = self.live[member.parameter]
        others = tuple(axis for axis in range(array.ndim) if axis != member.dim)
        return np.asarray(array.any(axis=others))

    def bury(self, group: Group, units: BoolArray) -> None:
        """Take units, shape (units,), out of a group: none of their weights is live any more."""
        self.dead[group.name] |= units
        marks = np.append(units, False)  # the last entry stands for unit -1
        for member in group.members:
            if member.parameter in self.live:
                np.moveaxis(self.live[member.parameter], member.dim, 0)[marks[member.units]] = False

    def _without(self, group: Group, role: str) -> BoolArray:
        members = [member for member in group.members if member.role == role]
        alive = np.zeros(group.size + 1, dtype=bool)
        for member in members:
            alive[member.units[self.reads(member)]] = True
        if not members:
            return np.zeros(group.size, dtype=bool)
        return ~alive[:-1]
