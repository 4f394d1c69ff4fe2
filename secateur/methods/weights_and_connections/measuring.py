"""The table of layers: weights, multiply-adds, how much of what they read is zero, and the energy that this makes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.cost.energy import inference_energy_pj
from secateur.graph.slots import mode_of
from secateur.record import LayerWeights
from secateur.sparse import Masks
from secateur.sparse.prunable import layer_of
from secateur.training import Task, join_processes, sum_over_processes


@dataclass
class _Seen:
    """What one layer read and gave so far."""

    macs: int = 0  # of one sample
    read: int = 0
    read_nonzero: int = 0
    gave: int = 0
    gave_nonzero: int = 0


@dataclass
class _Watch:
    """Counts what runs through layers, and in which order they first run."""

    seen: dict[str, _Seen] = field(default_factory=dict)

    def watch(self, name: str, layer: nn.Module) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if not given or not isinstance(given[0], Tensor) or not isinstance(output, Tensor):
                return
            entry = self.seen.setdefault(name, _Seen())
            if entry.read == 0:
                entry.macs = _macs(module, given[0], output)
            entry.read += given[0].numel()
            entry.read_nonzero += int(torch.count_nonzero(given[0]))
            entry.gave += output.numel()
            entry.gave_nonzero += int(torch.count_nonzero(output))

        return layer.register_forward_hook(note)


def layer_table(
    dense: nn.Module, model: nn.Module, masks: Masks, task: Task, batches: int
) -> tuple[tuple[LayerWeights, ...], tuple[float, float] | None]:
    """Return a row per pruned weight, and the energy of a sample through the dense model and through ``model``.

    Inputs that are zero are counted on validation images. What a layer gives on (Act%) is what the layer that runs
    next reads, after activation and pooling, which in a chain of layers is the same; of the last layer it is its own
    output. Multiply-adds of a layer that runs several times are those of its first run.

    Args:
        dense: the dense model.
        model: the pruned one, its zeros in place; of the same layers, perhaps with fewer units.
        masks: of ``model``.
        task: gives validation images.
        batches: so many.

    Returns:
        The rows, and picojoules (dense, pruned); None for these where a layer did not run.
    """
    names = tuple(masks)
    full = _observed(dense, names, task, 1)
    pruned = _observed(model, names, task, batches)
    sizes = dict(dense.named_parameters(remove_duplicate=False))
    order = [name for name in pruned if name in names]
    reads = {name: pruned[name].read_nonzero / max(1, pruned[name].read) for name in order}
    rows: list[LayerWeights] = []
    for name in names:
        place = order.index(name) if name in order else None
        gives = None
        if place is not None:
            last = place + 1 == len(order)
            own = pruned[name]
            gives = own.gave_nonzero / max(1, own.gave) if last else reads[order[place + 1]]
        rows.append(
            LayerWeights(
                name=name,
                weights=sizes[name].numel(),
                kept=masks.kept(name),
                macs=full[name].macs if name in full else 0,
                inputs=reads.get(name),
                outputs=gives,
            )
        )
    if len(order) < len(names) or len(full) < len(names):
        return tuple(rows), None
    energies = (
        inference_energy_pj(weights=sum(row.weights for row in rows), macs=sum(row.macs for row in rows)),
        inference_energy_pj(weights=sum(row.kept for row in rows), macs=sum(row.macs * row.work for row in rows)),
    )
    return tuple(rows), energies


def _observed(model: nn.Module, names: tuple[str, ...], task: Task, batches: int) -> dict[str, _Seen]:
    """Return what each layer saw, in the order in which they first ran."""
    with _watched(model, names) as watch, mode_of(model, training=False), torch.no_grad():
        for images, _ in task.batches(batches, "validation"):
            model(images)
    processes = join_processes()
    if processes.world_size > 1:  # each ran its part of every batch
        device = next(model.parameters()).device
        counts = [[seen.read, seen.read_nonzero, seen.gave, seen.gave_nonzero] for seen in watch.seen.values()]
        total = sum_over_processes(torch.tensor(counts, dtype=torch.int64, device=device), processes)
        for seen, (read, read_nonzero, gave, gave_nonzero) in zip(watch.seen.values(), total.tolist(), strict=True):
            seen.read, seen.read_nonzero, seen.gave, seen.gave_nonzero = read, read_nonzero, gave, gave_nonzero
    return watch.seen


@contextmanager
def _watched(model: nn.Module, names: tuple[str, ...]) -> Iterator[_Watch]:
    watch = _Watch()
    handles = [watch.watch(name, layer_of(model, name)) for name in names]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _macs(layer: nn.Module, given: Tensor, output: Tensor) -> int:
    """Return the multiply-adds of one sample."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Linear):
        return weight.numel() * math.prod(output.shape[1:-1])
    places = given if isinstance(layer, _ConvTransposeNd) else output
    return weight.numel() * math.prod(places.shape[2:])
