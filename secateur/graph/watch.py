"""What a trial run is compared with while it runs: views, slices, numbers, and what modules return."""

import threading
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from secateur.graph import inputs
from secateur.graph.labels import DimensionLabels, IntArray
from secateur.graph.recorded import ModuleCall, ModuleOutput, Record, Seen, Shaped


@dataclass(frozen=True)
class Misfit:
    """Where a trial failed.

    Attributes:
        module: path of the innermost module that was running.
        line: the line of the model's own code, ``file.py:number``.
        computed: whether the code computed with another number, instead of asking for another shape.
        training: whether that was in training mode.
        returned: how many module calls had returned before.
        calls: numbers of the module calls that had begun and not ended, the innermost last.
    """

    module: str
    line: str
    computed: bool = False
    training: bool = field(default=False, compare=False)
    returned: int = field(default=0, compare=False)
    calls: tuple[int, ...] = field(default=(), compare=False)

    def reason(self) -> str:
        """Return why a group is locked; without sizes, so that a cut model's trace says the same."""
        place = f" of module {self.module!r}" if self.module else ""
        what = "its size is computed with" if self.computed else "its size is written"
        return f"{what} in the code{place}{f' ({self.line})' if self.line else ''}"


class BeyondError(Exception):
    """A trial run has come past the place that was asked about."""


class UnexpectedShapeError(Exception):
    """A trial run has another shape than the labels foretell."""


class UnexpectedNumberError(Exception):
    """A trial run computes with another number than the trace."""


class Watch:
    """Compares what a run shows with what the trace's labels foretell: views, numbers, what modules return."""

    def __init__(
        self,
        names: dict[int, str],
        record: Record,
        marks: IntArray,
        *,
        training: bool,
        meta: bool,
        beyond: Misfit | None,
        start: ModuleCall | None = None,
    ) -> None:
        self._thread = threading.get_ident()
        self._beyond = beyond
        self._expected: list[ModuleOutput] = record.module_outputs[training]
        self._views: list[Shaped] = record.views[training]
        self._slices = record.slices[training]
        self._numbers: list[tuple[float, ...]] = record.numbers[training]
        self._meta = meta
        self._names = names
        self._marks = marks
        self._whole = start is None
        start = start or ModuleCall(0, training, "", (), Seen())
        self.returned = start.seen.returned
        self._next_view = start.seen.views
        self._next_slice = start.seen.slices
        self._next_numbers = start.seen.numbers
        self._entered = start.number
        self._stack: list[tuple[str, int]] = [("", -1)]
        self._around = start.around
        self._handles: list[Any] = []
        self._lost: dict[int, int] = {}

    def __enter__(self) -> "Watch":
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def module(self) -> str:
        """Path of the innermost module that was entered and not left without an error."""
        return self._stack[-1][0]

    @property
    def calls(self) -> tuple[int, ...]:
        """Numbers of the calls that began and did not end without an error, the innermost last."""
        inner = dict.fromkeys(number for _, number in self._stack if number >= 0)
        return (*self._around, *inner)

    def unfinished(self) -> Misfit | None:
        """Return a misfit if the run took another course than the trace and called fewer modules."""
        return None if not self._whole or self.returned == len(self._expected) else Misfit("", "")

    def _enter(self, module: nn.Module, args: object) -> None:
        del args
        if threading.get_ident() != self._thread:  # hooks on all modules are those of all threads
            return
        path = self._names.get(id(module))
        if path is None:
            self._stack.append(self._stack[-1])
        else:
            self._stack.append((path, self._entered))
            self._entered += 1

    def _leave(self, module: nn.Module, args: object, result: object) -> None:
        del args
        if threading.get_ident() != self._thread:
            return
        path = self.module
        if id(module) in self._names:
            self._compare(path, result)
        if len(self._stack) > 1:
            self._stack.pop()

    def viewed(self, tensor: Tensor) -> None:
        """Compare the result of a view: a ``-1`` in it may take up what a written number leaves over."""
        if self._next_view >= len(self._views) or tensor.shape != self.after(*self._views[self._next_view]):
            raise UnexpectedShapeError
        self._next_view += 1

    def sliced(self, start: int) -> None:
        """Compare where a slice begins: it must move with the channels before it."""
        if self._next_slice >= len(self._slices):
            raise UnexpectedShapeError
        before, atoms = self._slices[self._next_slice]
        self._next_slice += 1
        if start != before - (0 if atoms is None else int(self._marks[atoms].sum())):
            raise UnexpectedShapeError

    def computed(self, numbers: tuple[float, ...]) -> None:
        """Compare the numbers that an operator computes with: a scale or a mean may be made from a size."""
        if self._next_numbers >= len(self._numbers) or numbers != self._numbers[self._next_numbers]:
            raise UnexpectedNumberError
        self._next_numbers += 1

    def _compare(self, path: str, result: object) -> None:
        if self.returned >= len(self._expected) or self._expected[self.returned][0] != path:
            raise UnexpectedShapeError
        foretold = self._expected[self.returned][1]
        found = inputs.tensors_of(result)
        fits = len(found) == len(foretold) and all(
            self._agrees(tensor, *shaped) for tensor, shaped in zip(found, foretold, strict=True)
        )
        if not fits:
            raise UnexpectedShapeError
        self.returned += 1
        if self._beyond is not None and path == self._beyond.module and self.returned > self._beyond.returned:
            raise BeyondError

    def _agrees(self, tensor: Tensor, shape: tuple[int, ...], dims: DimensionLabels) -> bool:
        """Compare a shape; in a run with values there may be another number of boxes, but not of channels."""
        return tensor.dim() == len(shape) and all(
            found == size or (atoms is None and not self._meta)
            for found, size, atoms in zip(tensor.shape, self.after(shape, dims), dims, strict=True)
        )

    def after(self, shape: tuple[int, ...], dims: DimensionLabels) -> tuple[int, ...]:
        """Return the shape that the labels foretell after the cut."""
        return tuple(
            size if atoms is None else size - self._lost_from(atoms) for size, atoms in zip(shape, dims, strict=True)
        )

    def _lost_from(self, atoms: IntArray) -> int:
        lost = self._lost.get(id(atoms))
        if lost is None:
            lost = self._lost[id(atoms)] = int(self._marks[atoms].sum())
        return lost
