"""How much a unit matters by the scale that multiplies it."""

from torch import Tensor

from secateur.criteria.norms import check_rows


def scale_size(scales: Tensor) -> Tensor:
    """Return the size of each channel's scale (source: Liu et al. 2017, "Network Slimming", arXiv:1708.06519, §3).

    Args:
        scales: γ of a norm or φ of a gate, shape (n, 1); several columns where one channel has several scales.

    Returns:
        |γ|, summed over columns, shape (n,), never negative; the lowest are cut first.

    Raises:
        UsageError: ``scales`` is not two-dimensional.
    """
    check_rows(scales)
    return scales.abs().sum(dim=1)
