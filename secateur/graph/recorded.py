"""What the runs of one model tell: unions and locks, roles, costs, and what a trial cut is compared with."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from secateur.graph.labels import Atoms, DimensionLabels, IntArray, Labels
from secateur.graph.operations import Operations
from secateur.graph.slots import StoredTensor


@dataclass
class Storage:
    """One activation storage: constant bytes, the labelled dimensions, and its life."""

    constant: int
    dims: list[IntArray]
    born: int
    dies: int = -1


Shaped = tuple[tuple[int, ...], DimensionLabels]
"""The shape and the labels of a tensor."""

ModuleOutput = tuple[str, list[Shaped]]
"""One call of a module: its path, and the shape and labels of every tensor that it returned."""


@dataclass(frozen=True)
class Seen:
    """How many of the things that a trial is compared with a run has seen so far."""

    returned: int = 0
    views: int = 0
    slices: int = 0
    numbers: int = 0


@dataclass(frozen=True, eq=False)
class Given:
    """A tensor that a module was called with, and its labels then: what runs in place may change them."""

    tensor: Tensor
    labels: Labels | None


@dataclass(frozen=True)
class ModuleCall:
    """The start of one call of a module in a run on meta tensors.

    Attributes:
        number: which call of the run it is.
        training: whether the run was in training mode.
        path: of the module.
        args: its positional arguments, with each tensor as a :class:`Given`.
        seen: what had been seen before.
        around: numbers of the calls that it lies in, the innermost last.
    """

    number: int
    training: bool
    path: str
    args: tuple[Any, ...]
    seen: Seen
    around: tuple[int, ...] = ()


@dataclass(frozen=True)
class Split:
    """A dimension of channels that was seen as several: as heads × channels of a head, or groups × their channels.

    Attributes:
        block: labels over all axes that it was split into.
        varying: the axes along which the labels change.
        axis: the one that carries the channels on; the others are tied.
        module: path of the module whose forward did it.
    """

    block: IntArray
    varying: tuple[int, ...]
    axis: int
    module: str

    @property
    def line(self) -> IntArray:
        """The labels that are carried on."""
        return np.moveaxis(self.block, self.axis, 0).reshape(self.block.shape[self.axis], -1)[:, 0]


Place = tuple[bool, int, int]
"""Where in a run a dimension is split: in evaluation mode or not, the number of the operator, and of the dimension."""

Axes = dict[Place, int]
"""Splits whose channels another axis than the longest should carry."""


@dataclass
class Record:
    """What the runs of one model told: unions and locks, roles, costs."""

    stored: dict[str, StoredTensor]
    model_class: str
    batch_size: int
    atoms: Atoms = field(default_factory=Atoms)
    atoms_of: dict[str, tuple[IntArray, ...]] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    regrouped: set[str] = field(default_factory=set)
    attributes: dict[tuple[str, str], IntArray] = field(default_factory=dict)
    compute: list[tuple[str, str, int, list[IntArray]]] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    operators: int = 0
    unknown_ops: Counter[str] = field(default_factory=Counter)
    train_mode: bool = False
    asks_for_sizes: bool = False
    taken_apart: dict[str, list[IntArray]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    calls: dict[bool, Any] = field(default_factory=dict)
    module_calls: dict[bool, list[ModuleCall]] = field(default_factory=dict)
    module_outputs: dict[bool, list[ModuleOutput]] = field(default_factory=dict)
    views: dict[bool, list[Shaped]] = field(default_factory=dict)
    numbers: dict[bool, list[tuple[float, ...]]] = field(default_factory=dict)
    slices: dict[bool, list[tuple[int, IntArray | None]]] = field(default_factory=dict)
    axes: Axes = field(default_factory=dict)
    splits: dict[Place, Split] = field(default_factory=dict)
    paired: list[IntArray] = field(default_factory=list)
    operations: Operations = field(default_factory=Operations)
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.atoms_of:
            for name, entry in self.stored.items():
                self.atoms_of[name] = tuple(self.atoms.new(size) for size in entry.tensor.shape)

    def unreached(self) -> list[str]:
        """Return the parameters that no operator has read."""
        return [name for name, entry in self.stored.items() if entry.is_parameter and name not in self.reached]

    def new_storage(self, constant: int, dims: list[IntArray]) -> int:
        """Record an activation made by the operator at hand, and return its number."""
        self.storages.append(Storage(constant, dims, born=self.operators))
        return len(self.storages) - 1

    def copy(self) -> "Record":
        """Return a record that can be added to without changing this one."""
        atoms = Atoms(self.atoms.count, list(self.atoms.edges), list(self.atoms.locks), list(self.atoms.approximations))
        atoms.sums = list(self.atoms.sums)
        atoms.origins = list(self.atoms.origins)
        atoms.selections = list(self.atoms.selections)
        return Record(
            stored=self.stored,
            model_class=self.model_class,
            batch_size=self.batch_size,
            atoms=atoms,
            atoms_of=self.atoms_of,
            roles=dict(self.roles),
            reached=set(self.reached),
            regrouped=set(self.regrouped),
            attributes=dict(self.attributes),
            compute=self.compute,
            storages=self.storages,
            operators=self.operators,
            unknown_ops=Counter(self.unknown_ops),
            train_mode=self.train_mode,
            asks_for_sizes=self.asks_for_sizes,
            taken_apart={path: list(parts) for path, parts in self.taken_apart.items()},
            outputs=self.outputs,
            calls=dict(self.calls),
            module_calls=dict(self.module_calls),
            module_outputs=dict(self.module_outputs),
            views=dict(self.views),
            numbers=dict(self.numbers),
            slices=dict(self.slices),
            axes=self.axes,
            splits=dict(self.splits),
            paired=list(self.paired),
            operations=self.operations,
            output_shapes=self.output_shapes,
        )
