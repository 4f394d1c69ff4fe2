"""How much a unit matters beside the other filters of its layer."""

import torch
from torch import Tensor

from secateur.criteria.norms import check_rows, doubled


def geometric_median_distance(slices: Tensor) -> Tensor:
    """Return how far each filter lies from all others of its layer.

    The filter of the smallest sum lies nearest to the geometric median, so that the others can best stand in for it
    (source: He et al. 2019, "FPGM", arXiv:1811.00250, §3.3). Computed in double precision, because equal filters have
    to come out equal.

    Args:
        slices: one filter per row, shape (n, elements).

    Returns:
        Σ over the other filters of the Euclidean distance, shape (n,), in weight units; the lowest are cut first.

    Raises:
        UsageError: ``slices`` is not two-dimensional.
    """
    check_rows(slices)
    exact = doubled(slices)
    return torch.cdist(exact, exact).sum(dim=1)


def lamp(slices: Tensor) -> Tensor:
    """Return each filter's share of its layer's squared weights that are left when all smaller filters are gone.

    Source: Lee et al. 2021, "LAMP", arXiv:2010.07611, §2: w² / Σ w² over all weights at least as large. Departure: the
    paper scores single weights; here a filter's squared norm takes the place of a squared weight. Of equal filters the
    first in order counts as smaller, as sorting in the paper has it.

    Args:
        slices: one filter per row, shape (n, elements).

    Returns:
        Shape (n,), in [0, 1], on one scale for all layers; the largest filter of a layer has 1, so that none goes
        empty before all others are down to one. A filter of zeros has 0.

    Raises:
        UsageError: ``slices`` is not two-dimensional.
    """
    check_rows(slices)
    squared = doubled(slices).square().sum(dim=1)
    rising, order = torch.sort(squared, stable=True)
    left = rising.flip(0).cumsum(0).flip(0)
    shares = torch.where(rising > 0, rising / left.where(left > 0, 1.0), rising)
    return torch.empty_like(shares).index_copy_(0, order, shares)
