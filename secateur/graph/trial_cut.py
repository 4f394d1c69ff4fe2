"""One unit of some groups taken out on trial: what tensors, layers and attributes of a part of a model are then."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.cuts import DimensionCut
from secateur.graph.labels import IntArray
from secateur.graph.selections import renumberings
from secateur.graph.shape_rules import meta_like
from secateur.graph.shape_run import follow
from secateur.graph.slicing import cut_tensor, renumbered
from secateur.graph.slots import StoredTensor, alike
from secateur.graph.surgery import TensorShape, layer_sizes
from secateur.graph.units import Group, ParameterDim
from secateur.graph.written_sizes import read_size, write_size


@dataclass(frozen=True)
class Part:
    """A module of a model that can run alone, or the whole model.

    Attributes:
        path: of the module.
        module: the module.
        modules: those in it, itself included, by path.
        stored: the parameters and buffers that they hold.
    """

    path: str
    module: nn.Module
    modules: dict[str, nn.Module]
    stored: dict[str, StoredTensor]

    @classmethod
    def of(cls, path: str, modules: dict[str, nn.Module], stored: dict[str, StoredTensor]) -> "Part":
        """Return the part at ``path`` of the model that ``modules`` and ``stored`` are of."""
        own = {other: module for other, module in modules.items() if is_within(other, path)}
        known = {id(module) for module in own.values()}
        held = {name: entry for name, entry in stored.items() if any(id(slot.module) in known for slot in entry.slots)}
        return cls(path, modules[path], own, held)


class TrialCut:
    """A graph without one unit of each of some groups. Cheaper than a plan, which knows which units are left."""

    def __init__(
        self, graph: ChannelGraph, dims_of: Mapping[str, Sequence[ParameterDim]], groups: Sequence[Group], unit: int
    ) -> None:
        self._graph = graph
        self._dims_of = dims_of
        self._removed = np.zeros(int(graph.sizes.sum()) + 1, dtype=np.int64)
        self._removed[[group.offset + unit % group.size for group in groups]] = 1  # the last, for unit -1, stays
        gone = renumberings(graph.selections, self._removed.astype(bool))
        self._renumbering = {entry.parameter: entry for entry in gone}

    def marks(self, unit_of_atom: IntArray) -> IntArray:
        """Return 1 for every atom that is gone, else 0."""
        marks: IntArray = self._removed[unit_of_atom]
        return marks

    def tensor(self, entry: StoredTensor, *, meta: bool) -> Tensor:
        """Return what stands for a parameter or buffer, without the units that are gone."""
        whole, cuts = entry.tensor.detach(), self._cuts(entry.name)
        if not meta:
            return follow(alike(entry.tensor, renumbered(cut_tensor(whole, cuts), self._renumbering.get(entry.name))))
        if not cuts:
            return follow(alike(entry.tensor, meta_like(whole)))
        return follow(alike(entry.tensor, whole.new_empty(_shape_after(whole, cuts), device="meta")))

    @contextlib.contextmanager
    def sizes_set(self, part: Part) -> Iterator[None]:
        """Set the integers of layers and the attributes that count units, and set them back in the end."""
        before: list[tuple[nn.Module, str, int | TensorShape]] = []
        try:
            for module, sizes in self._sizes(part):
                for name, value in sizes.items():
                    before.append((module, name, read_size(module, name)))
                    write_size(module, name, value)
            yield
        finally:
            for module, name, value in reversed(before):
                write_size(module, name, value)

    def _sizes(self, part: Part) -> Iterator[tuple[nn.Module, dict[str, int | TensorShape]]]:
        touched: dict[int, tuple[nn.Module, dict[str, tuple[TensorShape, TensorShape, str]]]] = {}
        for entry in part.stored.values():
            cuts = self._cuts(entry.name)
            for slot in entry.slots if cuts else ():
                shapes = touched.setdefault(id(slot.module), (slot.module, {}))[1]
                shapes[slot.attribute] = (tuple(entry.tensor.shape), _shape_after(entry.tensor, cuts), entry.name)
        for module, shapes in touched.values():
            yield module, layer_sizes(module, shapes.get, self._graph.regrouped)
        for attribute in self._graph.attributes:
            lost = int(self._removed[attribute.units].sum())
            if lost and attribute.module in part.modules:
                yield part.modules[attribute.module], {attribute.attribute: attribute.units.size - lost}

    def _cuts(self, name: str) -> tuple[DimensionCut, ...]:
        found = []
        for dim in self._dims_of.get(name, ()):
            marks = self._removed[dim.units]
            if marks.any():
                found.append(DimensionCut(name, dim.dim, dim.units.size, np.flatnonzero(marks)))
        return tuple(found)


def is_within(path: str, home: str) -> bool:
    """Return whether the module at ``path`` is the one at ``home`` or lies in it."""
    return path == home or not home or path.startswith(f"{home}.")


def _shape_after(tensor: Tensor, cuts: Sequence[DimensionCut]) -> TensorShape:
    shape = list(tensor.shape)
    for cut in cuts:
        shape[cut.dim] -= cut.removed.size
    return tuple(shape)
