"""Splitting by seed, with the classes in proportion."""

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.randomness import generator_for


def stratified_split(labels: Tensor, share: float, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Split positions in two, each class in proportion as far as whole samples allow.

    Args:
        labels: class of each sample, int64, shape (N,).
        share: part of the samples to take out, in [0, 1).
        seed: which samples are taken.
        purpose: what they are taken for, so that two splits by one seed are independent.

    Returns:
        (rest, taken): positions in rising order, int64; ``taken`` has round(share × N) of them, fewer only
        where that would empty a class.

    Raises:
        UsageError: ``share`` is outside [0, 1).
    """
    check_share(share, purpose)
    classes, counts = torch.unique(labels, return_counts=True)
    quotas = _quotas(counts, share)
    generator = generator_for(seed, purpose)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in zip(classes.tolist(), quotas.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def check_share(share: float, purpose: str) -> None:
    """Refuse a share that cannot be taken out.

    Raises:
        UsageError: ``share`` is outside [0, 1), or not a number.
    """
    if not 0 <= share < 1:
        raise UsageError(f"{purpose} share is {share}; give a share from 0 up to but not including 1")


def _quotas(counts: Tensor, share: float) -> Tensor:
    """Round down, then give what is missing to the largest remainders; the last sample of a class stays."""
    exact = counts.double() * share
    quotas = exact.floor().long()
    missing = round(float(counts.sum()) * share) - int(quotas.sum())
    by_remainder = (exact - quotas).argsort(descending=True, stable=True)
    quotas[by_remainder[:missing]] += 1
    return torch.minimum(quotas, counts - 1)
