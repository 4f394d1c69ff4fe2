"""The images that a network is mended on: the first of the training split, the same on every call."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from secateur.criteria.accumulator import present_processes
from secateur.criteria.batch_runs import call_of
from secateur.errors import DataError
from secateur.graph.inputs import batch_size_of, map_tensors, tensors_of
from secateur.training import Batch, Task, sum_over_processes

HELD_BYTES = 2**30
"""Images are read once and held, up to so many bytes; more are read again for each layer."""

Batches = Callable[[], Iterable[Batch]]
"""Gives the same mini-batches on every call."""


class Counted:
    """The mini-batches of one pass, again and again, and how many images that were."""

    def __init__(self, batches: Batches | Iterable[Batch]) -> None:
        """Count ``batches``; those that are no function are held."""
        self._batches = batches if callable(batches) else partial(list[Batch], list(batches))
        self._images = 0

    def __call__(self) -> Iterator[Batch]:
        """Yield the mini-batches once."""
        self._images = 0
        for batch in self._batches():
            self._images += batch_size_of(call_of(batch))
            yield batch

    def first(self) -> Batch:
        """Return the first mini-batch of which this process has a part.

        Raises:
            DataError: there is none.
        """
        for batch in self._batches():
            if batch_size_of(call_of(batch)):
                return batch
        raise DataError("layers cannot be fitted without images; give at least one batch")

    def images(self, device: torch.device) -> int:
        """Return the images of the last pass, over all processes."""
        count = torch.tensor([self._images], device=device)
        return int(sum_over_processes(count, present_processes()))


def first_images(task: Task, count: int) -> Iterator[Batch]:
    """Yield the first mini-batches of the training split that hold ``count`` images, over all processes together.

    They are the same on every call. The last one is shortened; a data set with fewer images is yielded once. Every
    process gets one image at least, because one without would leave the others waiting for its part of the sums.
    """
    processes = present_processes()
    count = max(count, processes.world_size)
    share = count // processes.world_size + (processes.rank < count % processes.world_size)
    size = next((batch_size_of(call_of(batch)) for batch in task.batches(1)), 1)
    for batch in task.batches(math.ceil(count / max(size, 1))):
        samples = batch_size_of(call_of(batch))
        if not share:
            return
        yield batch if samples <= share else _shortened(batch, samples, share)
        share -= min(samples, share)


def held(batches: Batches, images: int) -> Batches:
    """Return mini-batches that are read once, if ``images`` of them are few enough to hold, else as they are."""
    first = next(iter(batches()), None)
    if first is None:
        return batches
    call = call_of(first)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(call))
    if size / max(batch_size_of(call), 1) * images > HELD_BYTES:
        return batches
    kept = list(batches())
    return lambda: kept


def _shortened(batch: Batch, samples: int, share: int) -> Batch:
    """Return the first samples of a mini-batch."""
    found: Batch = map_tensors(lambda tensor: tensor[:share] if len(tensor) == samples else tensor, batch)
    return found
