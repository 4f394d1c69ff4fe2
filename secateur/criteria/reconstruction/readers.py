"""The modules that read a group, and what each owes to its units: one pass over images for all of them."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from secateur.criteria.accumulator import present_processes
from secateur.criteria.batch_runs import Told, call_of, checked_samples, misfit_named
from secateur.criteria.reconstruction.listening import Listener, left_at_rest
from secateur.criteria.reconstruction.read_layer import READABLE
from secateur.criteria.reconstruction.reading_sums import Reader as Reader
from secateur.criteria.reconstruction.reading_sums import ReadingSums, Wanted
from secateur.criteria.reconstruction.reading_sums import Target as Target
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.criteria.sites import Model
from secateur.errors import DataError, PlanError, UsageError
from secateur.graph import ChannelGraph
from secateur.graph.units import UnitArray
from secateur.randomness import derive_seed
from secateur.training import Batch
from secateur.training.devices import memory_named

_PLAIN = {(kind.forward, getattr(kind, "_conv_forward", None)) for kind in READABLE}
"""What the layers' own classes compute; one that inherits may compute anything."""


def readers_of(graph: ChannelGraph, model: nn.Module, group_name: str) -> tuple[Reader, ...]:
    """Return the convolutions and linear layers that read a group, in the graph's order.

    Args:
        graph: of ``model``.
        model: its modules are looked at.
        group_name: whose units are read.

    Raises:
        PlanError: there is no such group, nothing reads it, or something reads it that is no plain convolution or
            linear layer, so that contributions of its units are not defined.
    """
    group = graph.group(group_name)
    found = []
    looked_up = Model.of(graph, model)
    for member in group.members:
        if member.role != "consumes":
            continue
        reason = _unfit(looked_up, member.parameter, member.dim)
        if reason is not None:
            raise PlanError(f"what the next layers read of group {group_name!r} cannot be rebuilt: {reason}")
        found.append(_reader(looked_up, member.parameter, member.units, group.size))
    if not found:
        raise PlanError(f"no convolution or linear layer reads group {group_name!r}, so there is nothing to rebuild")
    return tuple(found)


def reader_at(graph: ChannelGraph, model: nn.Module, weight: str) -> Reader:
    """Return the reader with the weight named ``weight``, all of its input channels numbered as units of its own.

    Channels that go together are one unit, of whatever group; a channel that belongs to no group is one by itself.

    Raises:
        PlanError: it reads no units, or is no plain convolution or linear layer.
    """
    looked_up = Model.of(graph, model)
    dims = [entry for entry in graph.dims if entry.parameter == weight and entry.role == "consumes"]
    reason = _unfit(looked_up, weight, dims[0].dim) if dims else f"{weight} reads no units"
    if reason is not None:
        raise PlanError(f"what {weight} reads cannot be rebuilt: {reason}")
    units = np.where(dims[0].units < 0, -1 - np.arange(dims[0].units.size), dims[0].units)  # those of none differ
    own, numbers = np.unique(units, return_inverse=True)
    return _reader(looked_up, weight, numbers.reshape(-1), len(own))


def collect(
    model: nn.Module,
    readers: Mapping[str, Sequence[Reader]],
    batches: Iterable[Batch],
    *,
    target_model: nn.Module | None = None,
    targets: Mapping[str, Target] | None = None,
    rows_per_image: int | None = None,
    seed: int = 0,
    progress: Told | None = None,
) -> dict[str, dict[str, Statistics]]:
    """Run ``model`` on ``batches`` and return what each reader owes to the units of each group.

    The model runs in eval mode and is afterwards bitwise as it was, hooks, buffers and random states included. Where
    the first forward shows that each reader runs once, the others end as soon as the last reader has read. Under
    several processes each runs its part of every batch, and all get the sums.

    Args:
        model: whose readers are looked at.
        readers: group → modules that read it, as of :func:`readers_of`; any other name serves as well.
        batches: (inputs, labels), or inputs alone, on the model's device.
        target_model: gives the target y, on the same images: what its reader at the same path gives without bias. None
            takes the model's own, the sum of the contributions.
        targets: path of a reader → which part of it is the target; for those not named, the contributions of the same
            input channels to all filters.
        rows_per_image: sample so many rows per image as the ThiNet paper does, instead of all; without a target model.
        seed: of the rows that are sampled, and of models that draw random numbers even in eval mode.
        progress: called with the number of mini-batches done, after each.

    Returns:
        {group: {path of the reader: statistics}}, float64, on the CPU.

    Raises:
        UsageError: a reader never ran, or not as often as in the target model; data and model are on different devices.
        DataError: there are no batches, one is empty, or a model does not run on one.
        TrainingError: memory ran out.
    """
    if target_model is not None and rows_per_image is not None:
        raise UsageError("rows are sampled from one model's own outputs; leave out rows_per_image, or target_model")
    processes = present_processes()
    wanted = None if target_model is None else Wanted(target_model, readers, targets or {})
    sums = ReadingSums(model, readers, rows_per_image, wanted)
    done = 0
    with contextlib.ExitStack() as stack:
        listeners = []
        if wanted is not None:
            stack.enter_context(left_at_rest(wanted.model))
            listeners.append(stack.enter_context(Listener(wanted.model, sums.paths, wanted.read)))
        stack.enter_context(left_at_rest(model))
        listeners.append(stack.enter_context(Listener(model, sums.paths, sums.read)))
        for batch in batches:
            samples = checked_samples(model, batch, done + 1, processes)
            if samples:
                sums.begin(samples, (seed, "rows", done, processes.rank))
                for listener in listeners:
                    torch.manual_seed(derive_seed(seed, "reconstruction", done, processes.rank))
                    with memory_named(samples), misfit_named(listener.model, batch, done + 1):
                        listener.run(call_of(batch))
                sums.end()
            done += 1
            if progress is not None:
                progress(done)
    if done == 0:
        raise DataError("there are no batches to rebuild outputs from; give at least one")
    return sums.over(processes)


def _unfit(model: Model, parameter: str, dim: int) -> str | None:
    """Return why a parameter that reads units is not the weight of a layer whose inputs can be weighted, or None."""
    path, _, attribute = parameter.rpartition(".")
    module = model.modules.get(path)
    if module is None or attribute != "weight" or dim != 1 or not isinstance(module, READABLE):
        if ".parametrizations." in parameter or isinstance(module, READABLE):
            return f"the weight that reads it is computed from {parameter}; fold it (fold_weight_standardisation)"
        kind = "no module" if module is None else f"a {type(module).__name__}"
        return f"{parameter} belongs to {kind}, which is neither a convolution nor a linear layer"
    if (type(module).forward, getattr(type(module), "_conv_forward", None)) not in _PLAIN:
        return f"{path} is a {type(module).__name__} with a forward of its own; fold it (fold_weight_standardisation)"
    if model.aliases[parameter]:
        return f"{parameter} is shared with {model.aliases[parameter][0]}"
    return None


def _reader(model: Model, parameter: str, units: UnitArray, size: int) -> Reader:
    path = parameter.rpartition(".")[0]
    model.checked(parameter, 1, units.size)
    module = model.modules[path]
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    return Reader(path, parameter, np.tile(units, groups), size)  # type: ignore[arg-type]
