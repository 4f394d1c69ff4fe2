"""What is collected while a model runs once: unions, locks, roles, costs, and what its modules returned."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from secateur.graph import inputs
from secateur.graph.flow import Call, Flow, tensors_in
from secateur.graph.labels import IntArray, Labels, Origin, attach, labels_of
from secateur.graph.recorded import Given, ModuleCall, Record, Seen, Split
from secateur.graph.rules import Rule
from secateur.graph.shape_rules import meta_like
from secateur.graph.shape_run import (
    ARITHMETIC,
    FOLLOWING,
    SPLITS,
    VIEWS,
    numbers_in,
    on_shapes,
    start_of_slice,
)

_SHAPED = VIEWS | SPLITS | {"slice"}


class Tracer(Flow):  # type: ignore[no-untyped-call]
    """Collects unions, locks and costs while a model runs."""

    def __init__(self, record: Record, names: dict[int, str], *, meta: bool, costs: bool) -> None:
        super().__init__(record.atoms, names)
        self._record = record
        self._meta = meta
        self._costs = costs
        self._unions = len(record.atoms.edges)
        self._called = record.module_calls.setdefault(not costs, [])
        self._calls: tuple[int, ...] = ()
        self._returned = record.module_outputs.setdefault(not costs, [])
        self._computed = record.numbers.setdefault(not costs, [])
        self._sliced = record.slices.setdefault(not costs, [])
        self._viewed = record.views.setdefault(not costs, [])
        self.unknown = record.unknown_ops

    def input(self, tensor: Tensor) -> Tensor:
        """Return the tensor that stands for a model input."""
        given = meta_like(tensor) if self._meta else tensor.detach().clone()
        labels = Labels((None,) * tensor.dim(), from_weights=False)
        attach(given, labels)
        labels.storage = self._new_storage(given)
        self._record.operations.source(given)
        return given

    def output(self, tensor: Tensor) -> None:
        """Lock a model output, and keep it alive to the end."""
        labels = labels_of(tensor)
        if labels is None:
            return
        for atoms in labels.dims:
            if atoms is not None:
                self.books.lock(atoms, "output of the model")
        if self._costs and labels.storage >= 0:
            self._record.storages[labels.storage].dies = self._record.operators
        if self._costs:
            self._record.operations.output(tensor)

    def run(self, func: Any, name: str, call: Call) -> Any:
        """Run the operator, on meta tensors the common ones by their shape alone, and note the numbers in it."""
        numbers = numbers_in(name, *call)
        self.computed(numbers)
        written = name == "native_layer_norm" and (type(self.module) is not nn.LayerNorm or self.module.weight is None)
        # A constant may have been made with a size from the code.
        written = written or any(labels_of(tensor) is None for tensor in tensors_in(call))
        if (written or name not in FOLLOWING or (numbers and name in ARITHMETIC)) and not self.flattening:
            self._record.asks_for_sizes = self._record.asks_for_sizes or self._carries(call)
        if name == "slice":
            axis, start = start_of_slice(call[0])
            atoms = self.dims(call[0][0])[axis]
            self._sliced.append((start, None if atoms is None else atoms[:start]))
        return on_shapes(func, name, *call) if self._meta else func(*call[0], **call[1])

    def see(
        self, func: Any, name: str, rule: Rule | None, inputs: list[Tensor], call: Call, run: Callable[[Call], Any]
    ) -> Any:
        """See :class:`Flow`; note what the operator reads and makes."""
        if not self._costs:
            return super().see(func, name, rule, inputs, call, run)
        record = self._record
        seen = record.operations.begin(inputs, call[0], len(record.compute), len(record.storages))
        result = super().see(func, name, rule, inputs, call, run)
        record.operations.end(
            seen,
            name,
            self.module_path,
            inputs,
            call,
            tensors_in(((result,), {})),
            terms=len(record.compute),
            storages=len(record.storages),
            number=record.operators,
        )
        return result

    def _carries(self, call: Call) -> bool:
        return any(dim is not None for tensor in tensors_in(call) for dim in self.dims(tensor))

    def after(self, func: Any, labels: list[Labels | None], results: list[Tensor]) -> None:
        """Note which parameters are reached, and how long activations live."""
        record = self._record
        if len(record.atoms.edges) > self._unions:
            self._note_origin(func)
        if getattr(func, "_opname", "") in _SHAPED:
            self._viewed.extend((tuple(tensor.shape), self.dims(tensor)) for tensor in results)
        record.operators += 1
        now = record.operators
        first = -1
        for known in labels:
            if known is None:
                continue
            if known.parameter is not None:
                record.reached.add(known.parameter)
            if known.storage >= 0:
                first = known.storage if first < 0 else first
                if self._costs:
                    record.storages[known.storage].dies = now
        if not self._costs:
            return
        alias = any(value.alias_info is not None for value in getattr(func, "_schema", _NO_SCHEMA).returns)
        for tensor in results:
            given = labels_of(tensor)
            if given is not None and not given.from_weights and given.storage < 0:
                given.storage = first if alias else self._new_storage(tensor)

    def _note_origin(self, func: Any) -> None:
        atoms = self._record.atoms
        name = str(getattr(func, "_opname", getattr(func, "__name__", func))).strip("_").removeprefix("native_")
        atoms.origins.append(Origin(self._unions, len(atoms.edges), name, self.module_path, self.line()))
        self._unions = len(atoms.edges)

    def _new_storage(self, tensor: Tensor) -> int:
        if not self._costs:
            return -1
        labels = labels_of(tensor)
        dims = labels.dims if labels is not None else (None,) * tensor.dim()
        constant = tensor.element_size() * math.prod(
            size for size, atoms in zip(tensor.shape, dims, strict=True) if atoms is None
        )
        return self._record.new_storage(constant, [atoms for atoms in dims if atoms is not None])

    def spend(self, function: str, factors: list[tuple[int, IntArray | None]]) -> None:
        """See :class:`Flow`."""
        if self._costs:
            constant = math.prod(size for size, atoms in factors if atoms is None)
            if self.from_weights:  # once per run, not once per sample
                constant *= self._record.batch_size
            forms = [atoms for _, atoms in factors if atoms is not None]
            self._record.compute.append((self.module_path, function, constant, forms))

    def role(self, tensor: Tensor, axis: int, role: str) -> None:
        """See :class:`Flow`."""
        labels = labels_of(tensor)
        atoms = labels.dims[axis] if labels is not None and labels.from_weights else None
        if atoms is not None and atoms.size:
            self._record.roles.setdefault(int(atoms[0]), role)

    def regroup(self, weight: Tensor, groups: int) -> bool:
        """See :class:`Flow`."""
        labels = labels_of(weight)
        slots = () if labels is None or labels.parameter is None else self._record.stored[labels.parameter].slots
        if not slots or any(getattr(slot.module, "groups", None) != groups for slot in slots):
            self._record.asks_for_sizes = True
            return False
        if not all(isinstance(slot.module, nn.modules.conv._ConvNd) for slot in slots):
            self._record.asks_for_sizes = True
            return False
        if not all(type(slot.module).__module__.startswith("torch.nn.") for slot in slots):
            self._record.asks_for_sizes = True  # a forward of its own may have another number in it
        assert labels is not None
        assert labels.parameter is not None
        self._record.regrouped.add(labels.parameter)
        return True

    def counts(self, attribute: str, number: int, units: IntArray) -> bool:
        """See :class:`Flow`."""
        if self.module is None or getattr(self.module, attribute, None) != number:
            return False
        before = self._record.attributes.setdefault((self.module_path, attribute), units)
        if before.size != units.size:
            return False
        self.books.unify(before, units)  # a module that runs twice has one integer
        return True

    def called(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note what a module is called with; a norm without tensors still holds the number of its channels."""
        if self._meta:  # with values, keeping the arguments would keep every activation
            seen = Seen(len(self._returned), len(self._viewed), len(self._sliced), len(self._computed))
            number, given = len(self._called), tuple(map(_given, args))
            self._called.append(ModuleCall(number, not self._costs, path, given, seen, around=self._calls))
            self._calls = (*self._calls, number)
        if self._costs:
            self._record.operations.entered(path, args)
        if not isinstance(module, nn.modules.batchnorm._NormBase):
            return
        if module._parameters.get("weight") is None and module._buffers.get("running_mean") is None:
            atoms = self.dims(args[0])[1] if args and isinstance(args[0], Tensor) and args[0].dim() > 1 else None
            if atoms is not None:
                self._record.attributes[(path, "num_features")] = atoms

    def returned(self, path: str, result: Any) -> None:
        """Note the shapes and labels of what a module returned; a trial cut must return what follows from them."""
        self._calls = self._calls[:-1]
        if self._costs:
            self._record.operations.left(result)
        tensors = inputs.tensors_of(result)
        self._returned.append((path, [(tuple(tensor.shape), self.dims(tensor)) for tensor in tensors]))

    def carrying_axis(self, block: IntArray, varying: list[int]) -> int:
        """See :class:`Flow`; an axis that was asked for comes first."""
        record = self._record
        # The number of the operator is the same in every trace; one operator may split several dimensions.
        place = next(
            place for n in itertools.count() if (place := (self._costs, record.operators, n)) not in record.splits
        )
        axis = record.axes.get(place, super().carrying_axis(block, varying))
        record.splits[place] = Split(block, tuple(varying), axis, self.module_path)
        return axis

    def unread(self, atoms: IntArray) -> None:
        """See :class:`Flow`; a table of positions is often longer than the example."""
        if self.from_weights:
            self.lock(atoms, "a part of a weight that the example inputs do not read")

    def taken_apart(self, atoms: IntArray, places: list[int]) -> None:
        """See :class:`Flow`; integers of the module may count the whole, a part, or what lies before a place."""
        parts = np.split(atoms, [place for place in places if 0 < place < atoms.size])
        before = [atoms[:place] for place in places if 0 < place < atoms.size]
        self._record.taken_apart.setdefault(self.module_path, []).extend([atoms, *parts, *before])

    def computed(self, numbers: tuple[float, ...]) -> None:
        """See :class:`Flow`; a trial cut must compute with the same."""
        if numbers:
            self._computed.append(numbers)

    def paired(self, atoms: IntArray | None) -> None:
        """See :class:`Flow`."""
        if atoms is not None:
            self._record.paired.append(atoms)


def _given(argument: Any) -> Any:
    """Return an argument of a module with its tensors as :class:`Given`."""
    if isinstance(argument, Tensor):
        return Given(argument, labels_of(argument))
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    return inputs.map_tensors(lambda tensor: Given(tensor, labels_of(tensor)), argument)


class _NoSchema:
    returns: tuple[()] = ()


_NO_SCHEMA = _NoSchema()
