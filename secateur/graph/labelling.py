"""What a rule asks of a run, and what it tells: labels of tensors, ties, locks, costs, and where the run is."""

from collections import Counter
from types import CodeType

from torch import Tensor, nn

from secateur.graph.labels import Bookkeeper, DimensionLabels, IntArray, Labels, attach, labels_of
from secateur.graph.own_code import running_line


class Labelling:
    """The labels of the tensors of one run, and the place in the model where the run is.

    What only some runs want to know, such as costs, is a method that does nothing here.
    """

    def __init__(self, books: Bookkeeper, module_names: dict[int, str]) -> None:
        super().__init__()
        self.books = books
        self.unknown: Counter[str] = Counter()
        self.from_weights = False  # whether the operator at hand reads parameters and constants alone
        self._module_names = module_names
        self._stack: list[str] = [""]
        self._running: list[nn.Module] = []
        self._runner: CodeType | None = None  # the function that runs the model, above which nothing is the model's

    def dims(self, tensor: Tensor) -> DimensionLabels:
        """Return the labels of each dimension of ``tensor``, all None for a constant."""
        labels = labels_of(tensor)
        return (None,) * tensor.dim() if labels is None else labels.dims

    def give(self, tensor: Tensor, dims: DimensionLabels) -> None:
        """Label the result of the operator at hand."""
        attach(tensor, Labels(dims, from_weights=False))

    def unify(self, first: IntArray | None, second: IntArray | None, what: str) -> IntArray | None:
        """Tie two equally long dimensions; a labelled one that meets an unlabelled one is locked."""
        if first is None and second is None:
            return None
        if first is None or second is None:
            known = first if first is not None else second
            assert known is not None
            self.lock(known, f"{what} with a tensor that is not cut")
            return known
        self.books.unify(first, second)
        return first

    def contract(self, incoming: IntArray | None, consumed: IntArray | None, what: str) -> None:
        """Tie the channels that an operator sums over; a weight that reads what carries none is locked."""
        if incoming is None:
            self.lock(consumed, "reads the model's input, or a tensor that is not cut")
        else:
            self.unify(incoming, consumed, what)

    def lock(self, atoms: IntArray | None, reason: str) -> None:
        """Lock ``atoms`` (if any), naming the module and the source line that runs now."""
        if atoms is not None:
            self.books.lock(atoms, f"{reason}{self.where()}")

    def approximate(self, atoms: IntArray | None, reason: str) -> None:
        """Mark ``atoms`` (if any) as cut only approximately, naming the module and source line."""
        if atoms is not None:
            self.books.approximate(atoms, f"{reason}{self.where()}")

    def summed(self, atoms: IntArray) -> None:
        """Note that ``atoms`` are channels of a sum of activations."""
        self.books.summed(atoms)

    def locked(self, count: int, reason: str) -> IntArray:
        """Return labels for ``count`` channels that come from no parameter."""
        return self.books.locked(count, f"{reason}{self.where()}")

    def where(self) -> str:
        """Return `` in module 'path' (file.py:line)`` for the call that runs now."""
        place = f" in module {self._stack[-1]!r}" if self._stack[-1] else ""
        line = self.line()
        return f"{place} ({line})" if line else place

    def line(self) -> str:
        """Return ``file.py:line`` of the model's own code that runs now, empty if there is none."""
        return running_line(self._runner)

    @property
    def module(self) -> nn.Module | None:
        """The module whose forward runs now, if any."""
        return self._running[-1] if self._running else None

    @property
    def module_path(self) -> str:
        """Path of the module whose forward runs now; empty for the model itself."""
        return self._stack[-1]

    def spend(self, function: str, factors: list[tuple[int, IntArray | None]]) -> None:
        """Record the multiply-adds of a compute operator: the product of ``factors`` (size, labels)."""

    def role(self, tensor: Tensor, axis: int, role: str) -> None:
        """Record that a dimension of ``tensor``, if it is a weight, ``produces`` or ``consumes`` channels."""

    def regroup(self, weight: Tensor, groups: int) -> bool:
        """Record that cutting ``weight`` changes its convolution's number of groups; False if it cannot."""
        del weight, groups
        return True

    def counts(self, attribute: str, number: int, units: IntArray) -> bool:
        """Record that an integer of the module that runs now is the ``number`` of ``units``; False if it has no such.

        Args:
            attribute: what the integer is called.
            number: the value that the operator at hand was given.
            units: one atom for each thing counted, shape (number,).
        """
        del attribute, number, units
        return True

    def unread(self, atoms: IntArray) -> None:
        """Record that the operator at hand leaves ``atoms`` out; of a weight, other inputs may read them."""

    def taken_apart(self, atoms: IntArray, places: list[int]) -> None:
        """Record that channels were split or sliced at ``places``, which may be written in code."""

    def computed(self, numbers: tuple[float, ...]) -> None:
        """Record the numbers that the operator at hand computes with."""

    def paired(self, atoms: IntArray | None) -> None:
        """Record that ``atoms`` are summed over in a product of two activations, as queries with keys."""

    def carrying_axis(self, block: IntArray, varying: list[int]) -> int:
        """Choose which of the ``varying`` axes of a split dimension carries its channels; the others are tied.

        The longest, and of equally long ones the last, so that the choice depends on nothing but the shape.
        """
        return max(varying, key=lambda axis: (block.shape[axis], axis))
