"""Shapes written in code: before any plan is made, try which groups a model's own forward can follow.

A trace tells what hangs together, not whether ``view(B, 64, -1)`` will run once 63 channels are left. So one unit of
every group is cut on trial, on meta tensors, and every module must return what the labels foretell. A group that its
model's code does not follow is locked, with the place; unless integers that the code reads explain the size
(``graph/rebinding.py``), which then change with the cut.
"""

import traceback
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.graph import inputs
from secateur.graph.channel_graph import ChannelGraph
from secateur.graph.copying import forget_kept
from secateur.graph.labels import IntArray
from secateur.graph.own_code import own_file
from secateur.graph.recorded import Given, ModuleCall, Record
from secateur.graph.shape_rules import meta_like
from secateur.graph.shape_run import follow, running_on_shapes
from secateur.graph.slots import mode_of, module_names, preserved, randomness_preserved, swapped
from secateur.graph.trial_cut import Part, TrialCut, is_within
from secateur.graph.units import Group, ParameterDim, UnitArray
from secateur.graph.watch import BeyondError, Misfit, UnexpectedNumberError, Watch


class Trials:
    """Cuts units of a model on trial, without touching it.

    Attributes:
        model: the model.
        modules: its modules by path.
        suspicious: whether its code may ask for sizes at all.
        count: trial runs so far.
    """

    def __init__(
        self, model: nn.Module, record: Record, graph: ChannelGraph, unit_of_atom: IntArray, *, meta: bool
    ) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.count = 0
        self._unit_of_atom = unit_of_atom
        self._meta = meta
        self._modes = (False, True) if record.train_mode else (False,)
        self.suspicious = record.asks_for_sizes or not meta
        self._record = record
        self._names = module_names(model)
        self._parts: dict[str, Part] = {}
        self._dims_of: dict[str, list[ParameterDim]] = {}
        for dim in graph.dims:
            self._dims_of.setdefault(dim.parameter, []).append(dim)

    def misfit(
        self,
        graph: ChannelGraph,
        groups: Sequence[Group],
        *,
        beyond: Misfit | None = None,
        within: ModuleCall | None = None,
    ) -> Misfit | None:
        """Cut one unit of each of ``groups`` and run the model; None if it runs and every module's output fits.

        Where channels are sliced at places of their own, not only the first unit is tried but also the last.

        Args:
            graph: whose units are cut, and whose attributes change with them.
            groups: of ``graph``.
            beyond: a misfit of an earlier run: run only until the module that failed there has returned.
            within: run only this call of a module, on what the labels foretell that it is given.
        """
        for unit in (0, -1) if self._record.taken_apart else (0,):
            found = self._without(graph, groups, unit, beyond, within)
            if found is not None:
                return found
        return None

    def nearest(
        self, graph: ChannelGraph, groups: Sequence[Group], misfit: Misfit, paths: Iterable[str] = ()
    ) -> ModuleCall | None:
        """Return the smallest call around a misfit that shows it when it runs alone; None if the whole run is needed.

        A search runs a hundred times, and one block of a network is far cheaper than all of it.

        Args:
            graph: the graph of ``misfit``'s run.
            groups: those that it cut.
            misfit: what it found.
            paths: modules that have to lie within the call.
        """
        calls = self._record.module_calls.get(misfit.training, []) if self._meta else []
        paths = list(paths)
        for number in reversed(misfit.calls):
            if number >= len(calls) or not calls[number].path:
                return None
            call = calls[number]
            if (
                all(is_within(path, call.path) for path in paths)
                and self.misfit(graph, (), beyond=misfit, within=call) is None
                and self.misfit(graph, groups, beyond=misfit, within=call) == misfit
            ):
                return call
        return None

    def calls_like(self, call: ModuleCall) -> list[ModuleCall]:
        """Return the later calls of modules of the same class in the same run."""
        kind = type(self.modules[call.path])
        calls = self._record.module_calls[call.training][call.number + 1 :]
        return [other for other in calls if type(self.modules[other.path]) is kind]

    def counted(self, module: str, size: int) -> Iterator[UnitArray]:
        """Yield the units of the parts of channels, ``size`` long, that a module's code has split or sliced."""
        for atoms in self._record.taken_apart.get(module, ()):
            if atoms.size == size:
                yield self._unit_of_atom[atoms]

    def _without(
        self,
        graph: ChannelGraph,
        groups: Sequence[Group],
        unit: int,
        beyond: Misfit | None,
        within: ModuleCall | None,
    ) -> Misfit | None:
        cut = TrialCut(graph, self._dims_of, groups, unit)
        self.count += 1
        modes = self._modes if beyond is None else (beyond.training,)
        for training in modes if within is None else (within.training,):
            found = self._run(cut, training=training, beyond=beyond, within=within)
            if found is not None:
                return found
        return None

    def _run(self, cut: TrialCut, *, training: bool, beyond: Misfit | None, within: ModuleCall | None) -> Misfit | None:
        marks = cut.marks(self._unit_of_atom)
        watch = Watch(self._names, self._record, marks, training=training, meta=self._meta, beyond=beyond, start=within)
        part = self._part("" if within is None else within.path)
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            preserved(part.module),
            mode_of(part.module, training=training),
            randomness_preserved(part.stored),
            swapped(part.stored, lambda entry: cut.tensor(entry, meta=self._meta)),
            cut.sizes_set(part),
            watch,
            running_on_shapes(watch if self._meta else None),
        ):
            forget_kept(part.module)
            if within is None:
                args, kwargs = inputs.map_tensors(self._given, self._record.calls[training])
            else:
                args, kwargs = pytree.tree_map_only(Given, lambda given: _foretold(given, watch), within.args), {}
            try:
                part.module(*args, **kwargs)
            except BeyondError:
                return None
            except (Exception, SystemExit) as error:  # whatever a model's own code raises
                computed = isinstance(error, UnexpectedNumberError)
                return Misfit(watch.module, _line_of(error), computed, training, watch.returned, watch.calls)
        return watch.unfinished()

    def _part(self, path: str) -> Part:
        found = self._parts.get(path)
        if found is None:
            found = self._parts[path] = Part.of(path, self.modules, self._record.stored)
        return found

    def _given(self, tensor: Tensor) -> Tensor:
        return follow(meta_like(tensor) if self._meta else tensor.detach().clone())


def _foretold(given: Given, watch: Watch) -> Tensor:
    """Return a meta tensor as a module is given after the cut, with its dimensions in the same order in memory."""
    tensor, labels = given.tensor, given.labels
    if labels is None:  # a constant
        return meta_like(tensor)
    shape = watch.after(tuple(tensor.shape), labels.dims)
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    data = torch.empty([shape[axis] for axis in order], dtype=tensor.dtype, device="meta")
    return follow(data.permute([order.index(axis) for axis in range(tensor.dim())]))


def _line_of(error: BaseException) -> str:
    """Return ``file.py:line`` of the innermost frame that is neither torch's nor ours."""
    own = [(f, number) for f, number in traceback.walk_tb(error.__traceback__) if own_file(f.f_code.co_filename)]
    if not own:
        return ""
    frame, number = own[-1]
    return f"{own_file(frame.f_code.co_filename)}:{number}"
