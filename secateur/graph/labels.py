"""Labels: which channels a tensor dimension carries, and the union-find that ties them together.

Every index along every dimension of every parameter and buffer is an *atom*, an integer. A tensor dimension carries
either nothing (batch, space, tokens) or one atom per index. Operator rules (``graph/rules``) say how atoms flow and
which of them must go together; this module only keeps the books.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]
"""Atoms (when tracing) or 0/1 marks of removed channels (when masking), one per index of a dimension."""

DimensionLabels = tuple[IntArray | None, ...]

_ATTRIBUTE = "_secateur_labels"


class Labels:
    """What is known of one tensor in a run: the atoms of each dimension, and where its storage came from.

    Attributes:
        dims: per dimension, an array with one atom per index, or None.
        from_weights: True if the tensor was computed from parameters and constants alone.
        storage: number of the storage that holds it, or -1 if it is not an activation.
        parameter: name of the parameter or buffer that it is, else None.
    """

    __slots__ = ("dims", "from_weights", "parameter", "storage")

    def __init__(
        self, dims: DimensionLabels, *, from_weights: bool, storage: int = -1, parameter: str | None = None
    ) -> None:
        self.dims = dims
        self.from_weights = from_weights
        self.storage = storage
        self.parameter = parameter


def labels_of(tensor: Tensor) -> Labels | None:
    """Return the labels of ``tensor``, or None for a constant that no rule has seen."""
    labels: Labels | None = getattr(tensor, _ATTRIBUTE, None)
    return labels


def attach(tensor: Tensor, labels: Labels) -> None:
    """Give ``tensor`` its labels. They live on the Python object and go with it."""
    setattr(tensor, _ATTRIBUTE, labels)


class Bookkeeper(Protocol):
    """What the operator rules tell: the tracer collects it, the masker checks it."""

    def carries(self, atoms: IntArray) -> bool:
        """Return whether ``atoms`` tell anything that a change of shape must keep in its place."""

    def unify(self, first: IntArray, second: IntArray) -> None:
        """Say that the channels of two equally long arrays go together, index by index."""

    def lock(self, atoms: IntArray, reason: str) -> None:
        """Say that none of ``atoms`` can be cut, and why."""

    def approximate(self, atoms: IntArray, reason: str) -> None:
        """Say that cutting ``atoms`` is not the same as zeroing them, and why."""

    def summed(self, atoms: IntArray) -> None:
        """Say that ``atoms`` are channels of a sum of activations, as in a residual stream."""

    def locked(self, count: int, reason: str) -> IntArray:
        """Return ``count`` new labels of channels that belong to no parameter and stay."""

    def selected(self, path: str, source: IntArray, chosen: IntArray, places: Tensor) -> None:
        """Say that the selection at ``path`` passes on the channels ``places`` of ``source`` as ``chosen``.

        A channel that goes from ``source`` goes from ``chosen`` too, but not the other way.
        """


@dataclass(frozen=True)
class Origin:
    """The operator that made some unions.

    Attributes:
        first: number of its first union.
        end: number after its last one.
        operator: its name.
        module: path of the module whose forward called it, empty for the model itself.
        line: ``file.py:line`` of the model's own code, or empty.
    """

    first: int
    end: int
    operator: str
    module: str
    line: str


@dataclass
class Atoms:
    """Union-find over atoms. Unions are collected while the model runs and solved at once, vectorised."""

    count: int = 0
    edges: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    locks: list[tuple[IntArray, str]] = field(default_factory=list)
    approximations: list[tuple[IntArray, str]] = field(default_factory=list)
    sums: list[IntArray] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    selections: list[tuple[str, IntArray, IntArray]] = field(default_factory=list)

    def new(self, count: int) -> IntArray:
        """Return ``count`` fresh atoms."""
        first = self.count
        self.count += count
        return np.arange(first, self.count, dtype=np.int64)

    def carries(self, atoms: IntArray) -> bool:
        """See :class:`Bookkeeper`."""
        del atoms
        return True

    def unify(self, first: IntArray, second: IntArray) -> None:
        """See :class:`Bookkeeper`."""
        if first.size != second.size:
            raise ValueError(f"{first.size} channels cannot go together with {second.size}")
        if first is not second:
            self.edges.append((first, second))

    def lock(self, atoms: IntArray, reason: str) -> None:
        """See :class:`Bookkeeper`."""
        self.locks.append((atoms, reason))

    def approximate(self, atoms: IntArray, reason: str) -> None:
        """See :class:`Bookkeeper`."""
        self.approximations.append((atoms, reason))

    def summed(self, atoms: IntArray) -> None:
        """See :class:`Bookkeeper`."""
        self.sums.append(atoms)

    def locked(self, count: int, reason: str) -> IntArray:
        """See :class:`Bookkeeper`."""
        atoms = self.new(count)
        self.lock(atoms, reason)
        return atoms

    def selected(self, path: str, source: IntArray, chosen: IntArray, places: Tensor) -> None:
        """See :class:`Bookkeeper`."""
        del places  # they have no values in a run on meta tensors
        for _, known, other in self.selections:
            if other[0] == chosen[0]:
                self.unify(known, source)  # a selection that runs twice has one list of places
                return
        self.selections.append((path, source, chosen))

    def solve(self) -> IntArray:
        """Return for every atom the smallest atom that it is tied to, shape (count,)."""
        parent = np.arange(self.count, dtype=np.int64)
        if not self.edges:
            return parent
        left = np.concatenate([np.ravel(pair[0]) for pair in self.edges])
        right = np.concatenate([np.ravel(pair[1]) for pair in self.edges])
        while left.size:
            left, right = parent[left], parent[right]
            apart = left != right
            left, right = left[apart], right[apart]
            # Roots hang under smaller roots only, so no cycle can arise; of several candidates any may win.
            parent[np.maximum(left, right)] = np.minimum(left, right)
            while True:
                grandparent = parent[parent]
                if np.array_equal(grandparent, parent):
                    break
                parent = grandparent
        return parent
