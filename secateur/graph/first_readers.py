"""What each module call of a run gives, and which operator is the first that mixes the channels of a group.

Up to that operator every channel of the group is computed by itself, so that a network with fewer of them has computed
the same for those that it keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.copying import forget_kept
from secateur.graph.flow import Call, Flow, tensors_in
from secateur.graph.inputs import ExampleInputs, as_call, map_tensors, tensors_of
from secateur.graph.labels import DimensionLabels, IntArray, Labels, attach, labels_of
from secateur.graph.operations import Operations
from secateur.graph.rules import Rule
from secateur.graph.rules.contractions import CONTRACTIONS
from secateur.graph.slots import (
    StoredTensor,
    alike,
    module_names,
    preserved,
    randomness_preserved,
    refuse_wrappers,
    stored_tensors,
    swapped,
)

_CONVOLUTIONS = ("convolution", "convolution_overrideable")
_GROUPS = 8  # position of a convolution's number of groups


@dataclass(frozen=True)
class GivenTensor:
    """What a call of a module returned, where that is one tensor.

    Attributes:
        shape: of it.
        element_bytes: of each of its numbers.
        units: per dimension the unit of each index over all groups, -1 for none; None for a dimension without any.
    """

    shape: tuple[int, ...]
    element_bytes: int
    units: DimensionLabels


@dataclass(frozen=True)
class ModuleCalls:
    """One run of a model at full width.

    Attributes:
        operations: operators and module calls, in the order in which they ran.
        given: what each call of ``operations.calls`` returned; None where that is not one tensor.
        elements: how many numbers each operator made.
        first_readers: group → the first operator that reads several of its channels at once.
    """

    operations: Operations
    given: tuple[GivenTensor | None, ...]
    elements: tuple[int, ...]
    first_readers: Mapping[str, int]

    @cached_property
    def writers(self) -> dict[int, list[int]]:
        """Operators that write into each storage."""
        found: dict[int, list[int]] = {}
        for number, operator in enumerate(self.operations.operators):
            if operator.writes >= 0:
                found.setdefault(operator.writes, []).append(number)
        return found


def module_calls(model: nn.Module, graph: ChannelGraph, example_inputs: ExampleInputs) -> ModuleCalls:
    """Run ``model`` once in its present mode and follow the units of ``graph`` through it.

    Whatever is not understood on the way counts as reading all channels at once, which is the safe side.

    Args:
        model: the model of the graph, not narrowed; afterwards as it was.
        graph: of it.
        example_inputs: what it runs on.

    Raises:
        TraceError: the model is wrapped or compiled.
    """
    refuse_wrappers(model)
    stored = stored_tensors(model)
    units: dict[str, dict[int, IntArray]] = {}
    for dim in graph.dims:
        units.setdefault(dim.parameter, {})[dim.dim] = dim.units
    follower = _Follower(module_names(model))

    def numbered(entry: StoredTensor) -> Tensor:
        tensor = alike(entry.tensor, entry.tensor.detach().clone())
        mine = units.get(entry.name, {})
        dims = tuple(mine.get(axis, np.full(size, -1, dtype=np.int64)) for axis, size in enumerate(tensor.shape))
        attach(tensor, Labels(dims, from_weights=True, parameter=entry.name))
        return tensor

    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        preserved(model),
        randomness_preserved(stored),
        swapped(stored, numbered),
    ):
        forget_kept(model)
        given = map_tensors(follower.input, as_call(example_inputs))
        with follower:
            result = model(*given[0], **given[1])
        forget_kept(model)
    for tensor in tensors_of(result):
        follower.operations.output(tensor)
    return follower.found(graph)


class _Follower(Flow):  # type: ignore[no-untyped-call]
    """Lets numbers of units flow by the rules of the trace, and notes where channels are read together."""

    def __init__(self, names: dict[int, str]) -> None:
        self.operations = Operations()
        self._books = _Books(self.operations)
        super().__init__(self._books, names)
        self._given: dict[int, GivenTensor] = {}
        self._open: list[int] = []
        self._elements: list[int] = []
        self._storages = 0

    def input(self, tensor: Tensor) -> Tensor:
        """Return the tensor that stands for a model input."""
        given = tensor.detach().clone()
        attach(given, Labels((None,) * tensor.dim(), from_weights=False, storage=self._new_storage()))
        self.operations.source(given)
        return given

    def found(self, graph: ChannelGraph) -> ModuleCalls:
        """Return what was seen."""
        first: dict[str, int] = {}
        for units, operator in self._books.reads:
            for group in graph.groups_of(units):
                first.setdefault(group.name, operator)
        return ModuleCalls(
            operations=self.operations,
            given=tuple(self._given.get(number) for number in range(len(self.operations.calls))),
            elements=tuple(self._elements),
            first_readers=first,
        )

    def before(self, name: str, call: Call) -> Call:
        """Note what an operator that sums over channels reads."""
        for place, axis in CONTRACTIONS[name](*call) if name in CONTRACTIONS else ():
            tensor = call[1][place] if isinstance(place, str) else call[0][place]
            by_itself = name in _CONVOLUTIONS and call[0][_GROUPS] == tensor.shape[axis]  # depthwise
            units = self.dims(tensor)[axis]
            if units is not None and not by_itself:
                self._books.read(units)
        return call

    def see(self, func: Any, name: str, rule: Rule | None, inputs: list[Tensor], call: Call, run: Any) -> Any:
        """See :class:`Flow`; note what the operator reads and makes."""
        begun = self.operations.begin(inputs, call[0], 0, 0)
        result = super().see(func, name, rule, inputs, call, run)
        made = list(tensors_in(((result,), {})))
        self.operations.end(
            begun, name, self.module_path, inputs, call, made, terms=0, storages=0, number=len(self._elements)
        )
        self._elements.append(sum(tensor.numel() for tensor in made))
        return result

    def after(self, func: Any, labels: list[Labels | None], results: list[Tensor]) -> None:
        """Follow storages, so that writing in place is seen."""
        first = next((known.storage for known in labels if known is not None and known.storage >= 0), -1)
        schema = getattr(func, "_schema", None)
        alias = schema is not None and any(value.alias_info is not None for value in schema.returns)
        for tensor in results:
            known = labels_of(tensor)
            if known is not None and not known.from_weights and known.storage < 0:
                known.storage = first if alias and first >= 0 else self._new_storage()

    def called(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note a module when its forward starts."""
        del module
        self._open.append(len(self.operations.calls))
        self.operations.entered(path, args)

    def returned(self, path: str, result: Any) -> None:
        """Note what a module's forward returned."""
        del path
        self.operations.left(result)
        number = self._open.pop()
        if isinstance(result, Tensor):
            self._given[number] = GivenTensor(tuple(result.shape), result.element_size(), self.dims(result))

    def _new_storage(self) -> int:
        self._storages += 1
        return self._storages - 1


class _Books:
    """The bookkeeper of a run whose labels are numbers of units: what is not plain counts as read."""

    def __init__(self, operations: Operations) -> None:
        self.reads: list[tuple[IntArray, int]] = []
        self._operations = operations

    def read(self, units: IntArray) -> None:
        """Note that the operator at hand reads several of these units at once."""
        self.reads.append((units, len(self._operations.operators)))

    def carries(self, atoms: IntArray) -> bool:
        """See :class:`Bookkeeper`."""
        return bool((atoms >= 0).any())

    def unify(self, first: IntArray, second: IntArray) -> None:
        """Units that are one by one the same go on; others are not understood."""
        if first is not second and not np.array_equal(first, second):
            self.read(first)
            self.read(second)

    def lock(self, atoms: IntArray, reason: str) -> None:
        """See :class:`Bookkeeper`."""
        del reason
        self.read(atoms)

    def approximate(self, atoms: IntArray, reason: str) -> None:
        """A norm or a mean runs across the channels."""
        del reason
        self.read(atoms)

    def summed(self, atoms: IntArray) -> None:
        """A sum of two activations keeps channels apart."""

    def locked(self, count: int, reason: str) -> IntArray:
        """Channels that belong to no parameter are no unit's."""
        del reason
        return np.full(count, -1, dtype=np.int64)

    def selected(self, path: str, source: IntArray, chosen: IntArray, places: Tensor) -> None:
        """A selection is read by its list of places, which changes with the plan."""
        del path, places
        self.read(source)
        self.read(chosen)
