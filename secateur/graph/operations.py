"""Data flow of one traced run: which operator made which value from which, and between which calls of modules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from secateur.graph.labels import labels_of

_ATTRIBUTE = "_secateur_value"

SUMS = ("add", "sub")
"""Operators in which a branch may meet its shortcut; they are counted per module."""


@dataclass(frozen=True)
class Value:
    """One version of a tensor: writing into a tensor makes a new one.

    Attributes:
        producer: number of the operator that made it, -1 for a model input.
        from_weights: whether it was computed from parameters and constants alone.
        weights: names of the parameters and buffers that it was computed from, if so.
        storage: number of the activation storage that holds it, -1 for none.
        is_labelled: whether one of its dimensions carries channels.
    """

    producer: int
    from_weights: bool
    weights: frozenset[str]
    storage: int
    is_labelled: bool


@dataclass(frozen=True)
class Operator:
    """One operator of the run.

    Attributes:
        name: without namespace and in-place underscore.
        reads: values it reads, as far as they are not parameters.
        makes: values it makes.
        weights: parameters and buffers it reads by themselves.
        writes: storage that it writes into, -1 for none.
        terms: compute terms that it caused.
        storages: activation storages that it caused.
        number: as storages are born and die by.
        summed: for a sum, its module, its number there and its two operands (value or -1); else None.
        shapes_agree: for a sum, whether both operands have the result's shape and enter it unscaled on the left.
    """

    name: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    weights: frozenset[str]
    writes: int
    terms: range
    storages: range
    number: int
    summed: tuple[str, int, int, int] | None
    shapes_agree: bool


@dataclass
class ModuleCall:
    """One call of a module: the operators ``first`` … ``end`` - 1 ran inside."""

    path: str
    parent: int
    first: int
    takes: int  # value of the first positional argument, -1 if it is no tensor
    tensors: int  # how many tensors are among the positional arguments
    end: int = -1
    gives: int = -1  # value returned, -1 if it is not one tensor


@dataclass
class _Begun:
    reads: tuple[int, ...]
    weights: frozenset[str]
    terms: int
    storages: int
    operands: tuple[int, int]


@dataclass
class Operations:
    """All operators and module calls of one run, and the values between them."""

    values: list[Value] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)
    _open: list[int] = field(default_factory=list)
    _written: dict[int, int] = field(default_factory=dict)
    _sums: dict[str, int] = field(default_factory=dict)
    _token: object = field(default_factory=object)  # tells this run's marks on tensors from another run's

    # Recording -----------------------------------------------------------------------------------------------

    def source(self, tensor: Tensor) -> None:
        """Note a model input."""
        self._new(tensor, producer=-1, weights=frozenset())

    def output(self, tensor: Tensor) -> None:
        """Note a model output."""
        self.outputs.update(self._reads(tensor))

    def entered(self, path: str, args: tuple[Any, ...]) -> None:
        """Note that a module's forward starts."""
        tensors = sum(isinstance(argument, Tensor) for argument in args)
        takes = self._value(args[0]) if args and isinstance(args[0], Tensor) else -1
        parent = self._open[-1] if self._open else -1
        self._open.append(len(self.calls))
        self.calls.append(ModuleCall(path, parent, len(self.operators), takes, tensors))

    def left(self, result: Any) -> None:
        """Note that the forward entered last has returned."""
        if not self._open:
            return
        call = self.calls[self._open.pop()]
        call.end = len(self.operators)
        call.gives = self._value(result) if isinstance(result, Tensor) else -1

    def begin(self, inputs: list[Tensor], args: tuple[Any, ...], terms: int, storages: int) -> _Begun:
        """Note what an operator reads, before it may write into it."""
        reads = tuple(dict.fromkeys(value for tensor in inputs for value in self._reads(tensor)))
        weights = frozenset().union(*(self._weights(tensor) for tensor in inputs))
        pair = [self._value(tensor) if isinstance(tensor, Tensor) else -1 for tensor in args[:2]]
        first, second = (*pair, -1, -1)[:2]
        return _Begun(reads, weights, terms, storages, (first, second))

    def end(
        self,
        begun: _Begun,
        name: str,
        module: str,
        inputs: list[Tensor],
        call: tuple[tuple[Any, ...], dict[str, Any]],
        results: Iterable[Tensor],
        *,
        terms: int,
        storages: int,
        number: int,
    ) -> None:
        """Note an operator that has run."""
        summed, agree = None, False
        if name in SUMS:
            count = self._sums[module] = self._sums.get(module, -1) + 1
            summed = (module, count, *begun.operands)
        producer = len(self.operators)
        weights = begun.weights.union(*(self.values[value].weights for value in begun.reads))
        makes, writes = [], -1
        results = list(results)
        for tensor in results:
            written = any(tensor is argument for argument in inputs)
            makes.append(self._new(tensor, producer=producer, weights=weights))
            if written and self.values[makes[-1]].storage >= 0:
                writes = self.values[makes[-1]].storage
                self._written[writes] = makes[-1]
        if summed is not None and results:
            agree = call[1].get("alpha", 1) == 1 and all(
                isinstance(tensor, Tensor) and tensor.shape == results[0].shape for tensor in call[0][:2]
            )
        self.operators.append(
            Operator(
                name=name,
                reads=begun.reads,
                makes=tuple(makes),
                weights=begun.weights,
                writes=writes,
                terms=range(begun.terms, terms),
                storages=range(begun.storages, storages),
                number=number,
                summed=summed,
                shapes_agree=agree,
            )
        )

    def _new(self, tensor: Tensor, *, producer: int, weights: frozenset[str]) -> int:
        labels = labels_of(tensor)
        from_weights = labels is not None and labels.from_weights
        self.values.append(
            Value(
                producer=producer,
                from_weights=from_weights,
                weights=weights if from_weights else frozenset(),
                storage=labels.storage if labels is not None else -1,
                is_labelled=labels is not None and any(dim is not None for dim in labels.dims),
            )
        )
        number = len(self.values) - 1
        setattr(tensor, _ATTRIBUTE, (self._token, number))
        return number

    def _value(self, tensor: Tensor) -> int:
        """Return the version of a tensor that stands alone: -1 if it is none, or if a view of it was written into."""
        found = self._reads(tensor)
        return found[0] if len(found) == 1 else -1

    def _reads(self, tensor: Tensor) -> tuple[int, ...]:
        owner, number = getattr(tensor, _ATTRIBUTE, (None, -1))
        if owner is not self._token:
            return ()
        written = self._written.get(self.values[number].storage, -1)
        return (number,) if written <= number else (number, written)

    def _weights(self, tensor: Tensor) -> frozenset[str]:
        labels = labels_of(tensor)
        if labels is None or labels.parameter is None or self._reads(tensor):
            return frozenset()
        return frozenset([labels.parameter])

    # Reading -------------------------------------------------------------------------------------------------

    def users(self) -> dict[int, list[int]]:
        """Return the operators that read each value."""
        found: dict[int, list[int]] = {}
        for number, operator in enumerate(self.operators):
            for value in operator.reads:
                found.setdefault(value, []).append(number)
        return found

    def weights_of(self, number: int) -> frozenset[str]:
        """Return the parameters and buffers behind an operator, its own and those of weights computed before."""
        operator = self.operators[number]
        return operator.weights.union(*(self.values[value].weights for value in operator.reads))

    def is_from_weights(self, number: int) -> bool:
        """Whether an operator makes nothing but values computed from weights alone."""
        return all(self.values[value].from_weights for value in self.operators[number].makes)

    def is_dead(self, number: int, users: Mapping[int, list[int]]) -> bool:
        """Whether nobody reads what an operator makes."""
        return not any(users.get(value) or value in self.outputs for value in self.operators[number].makes)
