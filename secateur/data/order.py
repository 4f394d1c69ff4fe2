"""Which samples go into which batch: decided before anything is read."""

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.randomness import generator_for


def plan_batches(
    rows: Tensor,
    *,
    batch_size: int,
    seed: int | None = None,
    start: int = 0,
    limit: int | None = None,
    indices: Tensor | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[tuple[int, Tensor]]:
    """Return what this process reads of each batch, in order: (place of the first sample, storage rows).

    A place counts the samples of the whole pass, over all processes and also those that ``start`` skips. The
    places of a batch follow one another, and what is drawn for a place is the same however many processes share
    the batch.

    Args:
        rows: storage row of each sample of the split, int64, shape (N,), on the device that reads.
        batch_size: samples per batch over all ranks together.
        seed: None keeps the stored order.
        start: batches to skip.
        limit: at most this many batches.
        indices: positions in the split to restrict it to.
        rank: number of this process.
        world_size: number of processes; the samples of a batch are shared out evenly, in order.

    Raises:
        UsageError: an argument is out of range.
    """
    _check(batch_size=batch_size, start=start, limit=limit, rank=rank, world_size=world_size)
    if indices is not None:
        rows = rows[_positions(indices, len(rows)).to(rows.device)]
    if seed is not None:
        order = torch.randperm(len(rows), generator=generator_for(seed, "order"))
        rows = rows[order.to(rows.device)]
    count = -(-len(rows) // batch_size)
    stop = count if limit is None else min(count, start + limit)
    plan = []
    for begin in range(start * batch_size, stop * batch_size, batch_size):
        size = min(batch_size, len(rows) - begin)
        if seed is not None and size < world_size:
            continue  # in training every process must take the same number of steps
        first, end = begin + rank * size // world_size, begin + (rank + 1) * size // world_size
        if first < end:
            plan.append((first, rows[first:end]))
    return plan


def _check(*, batch_size: int, start: int, limit: int | None, rank: int, world_size: int) -> None:
    if batch_size < world_size or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size} for {world_size} process(es); each needs at least one sample")
    if start < 0 or (limit is not None and limit < 0):
        raise UsageError(f"start is {start} and limit is {limit}; neither may be negative")
    if not 0 <= rank < world_size:
        raise UsageError(f"rank is {rank} but there are {world_size} process(es); it must be 0 … {world_size - 1}")


def _positions(indices: Tensor, size: int) -> Tensor:
    if indices.dim() != 1 or indices.dtype != torch.int64:
        raise UsageError(f"indices are {indices.dtype} of shape {tuple(indices.shape)}; give a flat int64 tensor")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise UsageError(
            f"indices reach from {int(indices.min())} to {int(indices.max())} but the split has {size} samples"
        )
    return indices
