"""Residual branches that can be dropped whole, and what a plan says of one that goes. Names and numbers only.

A block computes y = x + f(x). Dropping it leaves y = x: modules that cost next to nothing take the place of f's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Replacement = Literal["skip", "zeros", "identity"]
"""What stands in a module's place: ``skip`` returns its input for a whole block; inside a branch ``zeros`` returns
zeros like its input, and ``identity`` passes these on."""

REPLACEMENTS: tuple[str, ...] = get_args(Replacement)


@dataclass(frozen=True)
class Sum:
    """Where a branch meets its shortcut.

    Attributes:
        module: path of the module whose forward adds them.
        number: which of the sums and differences of that module it is, from 0, in the order of the run.
        operand: which operand is the branch, 0 or 1.
    """

    module: str
    number: int
    operand: int


@dataclass(frozen=True)
class BlockCosts:
    """Which cost terms of a graph go with a block; all numbers are places in ``ChannelGraph.costs``.

    Attributes:
        compute: compute terms that go.
        storages: activations that go.
        merged: (storage that goes, storage that is read in its place).
        resized: (storage that stays with the size of ``shortcut``, number of the operator that now makes it).
        shortcut: the storage of x.
    """

    compute: tuple[int, ...]
    storages: tuple[int, ...]
    merged: tuple[tuple[int, int], ...]
    resized: tuple[tuple[int, int], ...]
    shortcut: int


NO_COSTS = BlockCosts(compute=(), storages=(), merged=(), resized=(), shortcut=-1)
"""Of a block that cannot be dropped."""


@dataclass(frozen=True)
class Block:
    """A residual branch whose input and output are one stream.

    Attributes:
        name: path of the module that is the block, or of the largest module of its branch.
        tensors: parameters and buffers that go with it.
        modules: modules that hold its parameters, in the order in which they run.
        sum: where the branch is added.
        replaced: path of a module and what stands in its place when the block is dropped.
        costs: the cost terms that go with it.
        locked: why it cannot be dropped, or None.
    """

    name: str
    tensors: tuple[str, ...]
    modules: tuple[str, ...]
    sum: Sum
    replaced: tuple[tuple[str, str], ...]
    costs: BlockCosts
    locked: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        return {
            "name": self.name,
            "tensors": list(self.tensors),
            "modules": list(self.modules),
            "sum": [self.sum.module, self.sum.number, self.sum.operand],
            "replaced": [list(pair) for pair in self.replaced],
            "locked": self.locked,
            "costs": {
                "compute": list(self.costs.compute),
                "storages": list(self.costs.storages),
                "merged": [list(pair) for pair in self.costs.merged],
                "resized": [list(pair) for pair in self.costs.resized],
                "shortcut": self.costs.shortcut,
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Block":
        """Read what :meth:`to_json` wrote."""
        costs = data["costs"]
        return cls(
            name=data["name"],
            tensors=tuple(data["tensors"]),
            modules=tuple(data["modules"]),
            sum=Sum(*data["sum"]),
            replaced=tuple((path, kind) for path, kind in data["replaced"]),
            costs=BlockCosts(
                compute=tuple(costs["compute"]),
                storages=tuple(costs["storages"]),
                merged=tuple((gone, read) for gone, read in costs["merged"]),
                resized=tuple((storage, born) for storage, born in costs["resized"]),
                shortcut=costs["shortcut"],
            ),
            locked=data["locked"],
        )


@dataclass(frozen=True)
class Drop:
    """A block that a plan drops, with all that is needed to do so without a graph.

    Attributes:
        block: its name.
        sum: where its branch is added, for masking.
        replaced: module path → what stands in its place, sorted.
    """

    block: str
    sum: Sum
    replaced: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, block: Block) -> "Drop":
        """Return what a plan says of ``block``."""
        return cls(block.name, block.sum, tuple(sorted(block.replaced)))

    def covers(self, path: str) -> bool:
        """Whether a module or tensor goes with the block: it is, or lies in, a module that is replaced."""
        return any(path == module or path.startswith(f"{module}.") for module, _ in self.replaced)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dictionaries."""
        return {
            "block": self.block,
            "sum": [self.sum.module, self.sum.number, self.sum.operand],
            "replaced": dict(self.replaced),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Drop":
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is inconsistent in itself.
        """
        module, number, operand = data["sum"]
        replaced = tuple(sorted((str(path), str(kind)) for path, kind in data["replaced"].items()))
        if type(number) is not int or number < 0 or operand not in (0, 1) or type(operand) is not int:
            raise ValueError(f"the block {data['block']!r} is added at {data['sum']!r}")
        if not replaced or any(not path or kind not in REPLACEMENTS for path, kind in replaced):
            raise ValueError(f"the block {data['block']!r} is replaced by {data['replaced']!r}")
        return cls(str(data["block"]), Sum(str(module), number, operand), replaced)


def outermost(drops: Iterable[Drop]) -> tuple[Drop, ...]:
    """Return ``drops`` by name, without those that lie in another and go with it."""
    by_recipe = {drop.replaced: drop for drop in drops}
    return tuple(
        sorted(
            (
                drop
                for drop in by_recipe.values()
                if not any(
                    other is not drop and all(other.covers(path) for path, _ in drop.replaced)
                    for other in by_recipe.values()
                )
            ),
            key=lambda drop: (drop.block, drop.replaced),
        )
    )


def renumbered(block: Block, compute: Mapping[int, int], storages: Mapping[int, int]) -> Block:
    """Return ``block`` with its cost terms under new numbers; terms without a new number are left out."""
    costs = block.costs
    pairs = [(gone, read) for gone, read in costs.merged if gone in storages and read in storages]
    return replace(
        block,
        costs=BlockCosts(
            compute=tuple(compute[term] for term in costs.compute if term in compute),
            storages=tuple(storages[number] for number in costs.storages if number in storages),
            merged=tuple((storages[gone], storages[read]) for gone, read in pairs),
            resized=tuple((storages[number], born) for number, born in costs.resized if number in storages),
            shortcut=storages.get(costs.shortcut, -1),
        ),
    )
