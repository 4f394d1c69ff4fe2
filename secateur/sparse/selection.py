"""Which groups of weights go: the least important first, until enough weights are gone."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.sparse.candidates import Candidates


def keep_above(stays: Tensor, layer: Candidates, *, at_least: int) -> Tensor:
    """Return ``stays`` (groups,) without groups that have no weight left, and with the best ``at_least`` groups."""
    return (stays & (layer.counts > 0)) | _best(layer, at_least)


def remove_lowest(layers: Sequence[Candidates], need: int, *, at_least: int) -> tuple[list[Tensor], int]:
    """Remove the least important groups of all ``layers`` together until ``need`` weights are gone.

    Of equally important groups those with the highest index go first. No group without weights is touched.

    Args:
        layers: whose groups compete.
        need: weights to remove; 0 or less removes nothing.
        at_least: groups of each layer that stay whatever happens, the most important ones.

    Returns:
        For each layer which of its groups stay, shape (groups,), and how many weights too many stay.
    """
    kept = [layer.counts > 0 for layer in layers]
    if need <= 0:
        return kept, 0
    free = [stays & ~_best(layer, at_least) for stays, layer in zip(kept, layers, strict=True)]
    scores = np.concatenate([layer.scores[chosen].numpy() for layer, chosen in zip(layers, free, strict=True)])
    counts = np.concatenate([layer.counts[chosen].numpy() for layer, chosen in zip(layers, free, strict=True)])
    gone, missing = _lowest(scores, counts, need)
    start = 0
    for stays, chosen in zip(kept, free, strict=True):
        size = int(chosen.sum())
        stays[chosen] = ~torch.from_numpy(gone[start : start + size])
        start += size
    return kept, missing


def _lowest(
    scores: NDArray[np.floating], counts: NDArray[np.integer | np.bool_], need: int
) -> tuple[NDArray[np.bool_], int]:
    """Return which entries go, the lowest scores and among equal ones the highest indices first."""
    gone = np.zeros(scores.size, dtype=bool)
    total = int(counts.sum())
    if need >= total:
        gone[:] = True
        return gone, need - total
    if int(counts.max()) == 1:
        # Single weights, of which there may be a hundred million: partitioned, not sorted.
        limit = np.partition(scores, need - 1)[need - 1]
        np.less(scores, limit, out=gone)
        equal = np.flatnonzero(scores == limit)
        gone[equal[equal.size - (need - int(gone.sum())) :]] = True
        return gone, 0
    order = np.lexsort((-np.arange(scores.size), scores))
    removed = np.cumsum(counts[order])
    gone[order[: int(np.searchsorted(removed, need)) + 1]] = True
    return gone, 0


def _best(layer: Candidates, number: int) -> Tensor:
    """Return the ``number`` most important groups that have weights left, the first of equal ones, shape (groups,)."""
    best = torch.zeros(layer.scores.shape, dtype=torch.bool)
    alive = torch.nonzero(layer.counts > 0).flatten()
    number = min(number, alive.numel())
    if number == 1:  # the usual case, without sorting
        best[alive[layer.scores[alive].argmax()]] = True
    elif number > 1:
        order = layer.scores[alive].argsort(descending=True, stable=True)
        best[alive[order[:number]]] = True
    return best
