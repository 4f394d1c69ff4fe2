"""What goes from one tensor: indices of a dimension, or of the channels that its numbers name."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateur.errors import PlanError


def fingerprint_of(model_class: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return a short hash of a model's class and of the names and shapes of its parameters and buffers."""
    digest = hashlib.blake2b(model_class.encode(), digest_size=8)
    for name in sorted(shapes):
        digest.update(f"\n{name}:{','.join(map(str, shapes[name]))}".encode())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DimensionCut:
    """What goes from one dimension of one parameter or buffer: sorted indices of ``size``."""

    parameter: str
    dim: int
    size: int
    removed: NDArray[np.int64]

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """The sorted indices that stay."""
        stays = np.ones(self.size, dtype=bool)
        stays[self.removed] = False
        return np.flatnonzero(stays)


@dataclass(frozen=True, eq=False)
class Renumbering:
    """Channels that go from among those that the numbers in a buffer name: sorted, of ``size``."""

    parameter: str
    size: int
    removed: NDArray[np.int64]

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """The sorted channels that stay."""
        return np.setdiff1d(np.arange(self.size), self.removed)

    def then(self, second: "Renumbering") -> "Renumbering":
        """Return the renumbering, in this one's original numbers, that does both."""
        return Renumbering(self.parameter, self.size, np.union1d(self.removed, self.kept[second.removed]))


def kept_numbers(owner: str, numbers: Iterable[int]) -> list[int]:
    """Return the units that ``owner`` is to keep, sorted.

    Raises:
        PlanError: they are not whole numbers, or one stands there twice.
    """
    if not isinstance(numbers, Iterable):
        raise PlanError(f"the units to keep of {owner} must be a list of numbers, not {numbers!r}")
    found = np.asarray(list(numbers))
    if found.size and (found.dtype.kind not in "iu" or found.ndim != 1):
        raise PlanError(f"the units to keep of {owner} must be whole numbers, not {found.dtype} {found.shape}")
    values, times = np.unique(found, return_counts=True)
    for value, number in zip(values[times > 1], times[times > 1], strict=True):
        raise PlanError(f"the units to keep of {owner} name {value} {number} times; give each number once")
    return [int(value) for value in values]
