"""The validation batches of a search: the same in every step, and large, since batch norm goes by them."""

from collections.abc import Iterator

import torch

from secateur.training import Batch, Task

HELD_BYTES = 2**30
"""Images up to this size are read once and held, because a search looks at them hundreds of times."""

_ALL = 2**31  # batches: as many as there are


class SearchBatches:
    """Validation samples of a task, put together to batches of a size of their own."""

    def __init__(self, task: Task, batch_size: int, samples: int | None) -> None:
        """Read nothing yet.

        Args:
            task: whose validation split, which is split off the training data.
            batch_size: samples per batch at least, as far as there are so many.
            samples: at most; None takes all.
        """
        self._task, self._size, self._samples = task, batch_size, samples
        self._held: list[Batch] | None = None

    def __call__(self) -> Iterator[Batch]:
        """Yield the batches, the same ones on every call."""
        if self._held is not None:
            yield from self._held
            return
        held: list[Batch] | None = []
        size = 0
        for batch in self._merged():
            size += batch[0].nbytes
            if held is not None:
                held = None if size > HELD_BYTES else [*held, batch]
            yield batch
        self._held = held

    def _merged(self) -> Iterator[Batch]:
        """Yield batches of the size asked for; a rest smaller than half of it joins the last one."""
        waiting: list[Batch] = []
        ready: Batch | None = None
        left = self._samples if self._samples is not None else _ALL
        for images, labels in self._task.batches(_ALL, "validation"):
            waiting.append((images[:left], labels[:left]))
            left -= len(images)
            if _count(waiting) >= self._size:
                if ready is not None:
                    yield ready
                ready, waiting = _joined(waiting), []
            if left <= 0:
                break
        if waiting and (ready is None or _count(waiting) >= self._size / 2):
            if ready is not None:
                yield ready
            ready, waiting = _joined(waiting), []
        if ready is not None:
            yield _joined([ready, *waiting])


def _count(batches: list[Batch]) -> int:
    return sum(len(images) for images, _ in batches)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
