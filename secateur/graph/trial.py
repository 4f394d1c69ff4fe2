"""Shapes written in code: before any plan is made, try which groups a model's own forward can follow.

A trace tells what hangs together, not whether ``view(B, 64, -1)`` will run once 63 channels are left. So one unit of
every group is cut on trial, on meta tensors, and every module must return what the labels foretell. A group that its
model's code does not follow is locked, with the place; unless integers that the code reads explain the size
(``graph/rebinding.py``), which then change with the cut.
"""

import contextlib
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from secateur.graph import inputs
from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.copying import forget_kept
from secateur.graph.flow import OUTSIDE
from secateur.graph.labels import DimensionLabels, IntArray
from secateur.graph.plan import Plan
from secateur.graph.recorded import ModuleOutput, Record, Shaped
from secateur.graph.shape_run import follow, meta_like, running_on_shapes
from secateur.graph.slots import StoredTensor, alike, mode_of, module_names, preserved, randomness_preserved, swapped
from secateur.graph.surgery import cut_tensor, integer_attributes
from secateur.graph.units import Group, UnitArray
from secateur.graph.written_sizes import read_size, write_size


@dataclass(frozen=True)
class Misfit:
    """Where a trial failed.

    Attributes:
        module: path of the innermost module that was running.
        line: the line of the model's own code, ``file.py:number``.
        computed: whether the code computed with another number, instead of asking for another shape.
        training: whether that was in training mode.
        returned: how many module calls had returned before.
    """

    module: str
    line: str
    computed: bool = False
    training: bool = field(default=False, compare=False)
    returned: int = field(default=0, compare=False)

    def reason(self) -> str:
        """Return why a group is locked; without sizes, so that a cut model's trace says the same."""
        place = f" of module {self.module!r}" if self.module else ""
        what = "its size is computed with" if self.computed else "its size is written"
        return f"{what} in the code{place}{f' ({self.line})' if self.line else ''}"


class Trials:
    """Cuts units of a model on trial, without touching it."""

    def __init__(self, model: nn.Module, record: Record, unit_of_atom: IntArray, *, meta: bool) -> None:
        self.model = model
        self.count = 0
        self._unit_of_atom = unit_of_atom
        self._meta = meta
        self._modes = (False, True) if record.train_mode else (False,)
        self.suspicious = record.asks_for_sizes or not meta
        self._record = record
        self._names = module_names(model)

    def misfit(self, graph: ChannelGraph, groups: Sequence[Group], *, beyond: Misfit | None = None) -> Misfit | None:
        """Cut one unit of each of ``groups`` and run the model; None if it runs and every module's output fits.

        Where channels are sliced at places of their own, not only the first unit is tried but also the last.

        Args:
            graph: whose units are cut, and whose attributes change with them.
            groups: of ``graph``.
            beyond: a misfit of an earlier run: run only until the module that failed there has returned.
        """
        for unit in (0, -1) if self._record.taken_apart else (0,):
            found = self._without(graph, groups, unit, beyond)
            if found is not None:
                return found
        return None

    def counted(self, module: str, size: int) -> Iterator[UnitArray]:
        """Yield the units of the parts of channels, ``size`` long, that a module's code has split or sliced."""
        for atoms in self._record.taken_apart.get(module, ()):
            if atoms.size == size:
                yield self._unit_of_atom[atoms]

    def _without(self, graph: ChannelGraph, groups: Sequence[Group], unit: int, beyond: Misfit | None) -> Misfit | None:
        gone = {group.name: unit % group.size for group in groups}
        kept = {group.name: [n for n in range(group.size) if n != gone[group.name]] for group in groups}
        plan = graph.plan(kept, allow_approximate=True)
        removed = np.zeros(int(graph.sizes.sum()) + 1, dtype=np.int64)
        removed[[group.offset + gone[group.name] for group in groups]] = 1
        marks = removed[self._unit_of_atom]  # the last entry stands for unit -1, which stays
        self.count += 1
        for training in self._modes if beyond is None else (beyond.training,):
            found = self._run(plan, marks, training=training, beyond=beyond)
            if found is not None:
                return found
        return None

    def _run(self, plan: Plan, marks: IntArray, *, training: bool, beyond: Misfit | None) -> Misfit | None:
        watch = _Watch(self._names, self._record, marks, training=training, meta=self._meta, beyond=beyond)
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            preserved(self.model),
            mode_of(self.model, training=training),
            randomness_preserved(self._record.stored),
            swapped(self._record.stored, lambda entry: self._cut(entry, plan)),
            _sizes_set(self.model, plan, self._record.stored),
            watch,
            running_on_shapes(watch if self._meta else None),
        ):
            forget_kept(self.model)
            args, kwargs = inputs.map_tensors(self._given, self._record.calls[training])
            try:
                self.model(*args, **kwargs)
            except _BeyondError:
                return None
            except (Exception, SystemExit) as error:  # whatever a model's own code raises
                computed = isinstance(error, _UnexpectedNumberError)
                return Misfit(watch.module, _line_of(error), computed, training, watch.returned)
        return watch.unfinished()

    def _given(self, tensor: Tensor) -> Tensor:
        return follow(meta_like(tensor) if self._meta else tensor.detach().clone())

    def _cut(self, entry: StoredTensor, plan: Plan) -> Tensor:
        if self._meta:
            shape = plan.shapes_after[entry.name]
            whole = entry.tensor.detach()
            data = meta_like(whole) if shape == tuple(whole.shape) else whole.new_empty(shape, device="meta")
        else:
            data = cut_tensor(entry.tensor.detach(), plan.cuts_of.get(entry.name, ()))
        return follow(alike(entry.tensor, data))


class _BeyondError(Exception):
    """A trial run has come past the place that was asked about."""


class _UnexpectedShapeError(Exception):
    """A trial run has another shape than the labels foretell."""


class _UnexpectedNumberError(Exception):
    """A trial run computes with another number than the trace."""


class _Watch:
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
        self.returned = 0
        self._next_view = 0
        self._next_slice = 0
        self._next_numbers = 0
        self._stack: list[str] = [""]
        self._handles: list[Any] = []
        self._lost: dict[int, int] = {}

    def __enter__(self) -> "_Watch":
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
        return self._stack[-1]

    def unfinished(self) -> Misfit | None:
        """Return a misfit if the run took another course than the trace and called fewer modules."""
        return None if self.returned == len(self._expected) else Misfit("", "")

    def _enter(self, module: nn.Module, args: object) -> None:
        del args
        if threading.get_ident() != self._thread:  # hooks on all modules are those of all threads
            return
        self._stack.append(self._names.get(id(module), self._stack[-1]))

    def _leave(self, module: nn.Module, args: object, result: object) -> None:
        del args
        if threading.get_ident() != self._thread:
            return
        path = self._stack[-1]
        if id(module) in self._names:
            self._compare(path, result)
        if len(self._stack) > 1:
            self._stack.pop()

    def viewed(self, tensor: Tensor) -> None:
        """Compare the result of a view: a ``-1`` in it may take up what a written number leaves over."""
        if self._next_view >= len(self._views) or tensor.shape != self._after(*self._views[self._next_view]):
            raise _UnexpectedShapeError
        self._next_view += 1

    def sliced(self, start: int) -> None:
        """Compare where a slice begins: it must move with the channels before it."""
        if self._next_slice >= len(self._slices):
            raise _UnexpectedShapeError
        before, atoms = self._slices[self._next_slice]
        self._next_slice += 1
        if start != before - (0 if atoms is None else int(self._marks[atoms].sum())):
            raise _UnexpectedShapeError

    def computed(self, numbers: tuple[float, ...]) -> None:
        """Compare the numbers that an operator computes with: a scale or a mean may be made from a size."""
        if self._next_numbers >= len(self._numbers) or numbers != self._numbers[self._next_numbers]:
            raise _UnexpectedNumberError
        self._next_numbers += 1

    def _compare(self, path: str, result: object) -> None:
        if self.returned >= len(self._expected) or self._expected[self.returned][0] != path:
            raise _UnexpectedShapeError
        foretold = self._expected[self.returned][1]
        found = inputs.tensors_of(result)
        fits = len(found) == len(foretold) and all(
            self._agrees(tensor, *shaped) for tensor, shaped in zip(found, foretold, strict=True)
        )
        if not fits:
            raise _UnexpectedShapeError
        self.returned += 1
        if self._beyond is not None and path == self._beyond.module and self.returned > self._beyond.returned:
            raise _BeyondError

    def _agrees(self, tensor: Tensor, shape: tuple[int, ...], dims: DimensionLabels) -> bool:
        """Compare a shape; in a run with values there may be another number of boxes, but not of channels."""
        return tensor.dim() == len(shape) and all(
            found == size or (atoms is None and not self._meta)
            for found, size, atoms in zip(tensor.shape, self._after(shape, dims), dims, strict=True)
        )

    def _after(self, shape: tuple[int, ...], dims: DimensionLabels) -> tuple[int, ...]:
        return tuple(
            size if atoms is None else size - self._lost_from(atoms) for size, atoms in zip(shape, dims, strict=True)
        )

    def _lost_from(self, atoms: IntArray) -> int:
        lost = self._lost.get(id(atoms))
        if lost is None:
            lost = self._lost[id(atoms)] = int(self._marks[atoms].sum())
        return lost


@contextlib.contextmanager
def _sizes_set(model: nn.Module, plan: Plan, stored: dict[str, StoredTensor]) -> Iterator[None]:
    changes = integer_attributes(model, plan, stored)
    modules = {path: model.get_submodule(path) for path in changes}
    before = {path: {name: read_size(modules[path], name) for name in sizes} for path, sizes in changes.items()}
    try:
        for path, sizes in changes.items():
            for name, value in sizes.items():
                write_size(modules[path], name, value)
        yield
    finally:
        for path, sizes in before.items():
            for name, value in sizes.items():
                write_size(modules[path], name, value)


def _line_of(error: BaseException) -> str:
    """Return ``file.py:line`` of the innermost frame that is neither torch's nor ours."""
    own = [(frame, number) for frame, number in traceback.walk_tb(error.__traceback__) if _is_own(frame)]
    if not own:
        return ""
    frame, number = own[-1]
    return f"{Path(frame.f_code.co_filename).name}:{number}"


def _is_own(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(OUTSIDE)
